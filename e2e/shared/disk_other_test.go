//go:build !linux

package shared

import (
	"errors"
	"runtime"
	"syscall"
	"testing"
)

func apartFrom() *syscall.SysProcAttr { return nil }

func smallDisk(*testing.T, *config) error {
	return errors.New("no mounts of a process's own on " + runtime.GOOS)
}

func mountDisk(string, int) error { return errors.ErrUnsupported }
