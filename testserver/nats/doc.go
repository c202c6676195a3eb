// Package nats starts private NATS servers with JetStream, embedded in this
// process or as processes of their own, for tests and benchmarks.
//
// A server that is a process is this program again: [ServeChild] is the first
// line of a TestMain, or a main, whose tests start one.
//
// The clock of such a server can't be moved: a program in Go asks the kernel
// for the time, past the library that moves it for others.
//
// IDEM_TEST_NATS_DSN names a server that is taken instead of a single one of
// ours, where the options ask for nothing of their own.
package nats
