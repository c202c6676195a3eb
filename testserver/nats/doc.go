// Package nats starts private NATS servers, embedded in this process or as
// processes of their own, for tests and benchmarks.
package nats
