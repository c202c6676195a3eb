// Package testserver starts private instances of real database servers for
// tests and benchmarks.
package testserver
