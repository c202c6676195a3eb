package shared

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// apartFrom gives a process mounts of its own.
func apartFrom() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return a
}

// smallDisk says why a worker can't have a disk of its own, where it can't.
func smallDisk(t *testing.T, c *config) error {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "mount -t tmpfs -o size=1m none "+c.Disk)
	cmd.SysProcAttr = apartFrom()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("a mount of its own: %w: %s", err, out)
	}
	return nil
}

// mountDisk mounts a file system of so many bytes. This process must have mounts of its
// own.
func mountDisk(dir string, size int) error {
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	return os.NewSyscallError("mount", syscall.Mount("none", dir, "tmpfs", 0, fmt.Sprint("size=", size)))
}
