//go:build !unix

package testserver

import (
	"fmt"
	"runtime"
	"syscall"
)

type owner struct{}

// unprivileged says that no server can be started here: process groups and
// their signals are what this package works with.
func unprivileged(...string) (*owner, error) {
	return nil, fmt.Errorf("%w: private servers are not started on %s", ErrMissing, runtime.GOOS)
}

func ownGroup(*owner) *syscall.SysProcAttr { return nil }

func (o *owner) own(string) error { return nil }

const (
	sigStop = syscall.Signal(0x13)
	sigCont = syscall.Signal(0x12)
	sigKill = syscall.SIGKILL
	sigTerm = syscall.SIGTERM
	sigInt  = syscall.SIGINT
)

func signal(int, syscall.Signal) error {
	return fmt.Errorf("%w: no signals on %s", ErrMissing, runtime.GOOS)
}
