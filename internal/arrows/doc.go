// Package arrows holds the tests that keep the repository in its shape: which
// package may import which, what a module may require, that everything
// exported is documented, and that no test waits for time to pass. It has no
// code of its own.
package arrows
