//go:build !unix

package shared

import "syscall"

// Nothing here runs where there are no private servers; it only compiles.
const (
	sigStop = syscall.Signal(0x13)
	sigCont = syscall.Signal(0x12)
)
