//go:build unix

package testserver

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// owner is the user whose program a server is; nil is this process's.
type owner struct{ uid, gid uint32 }

// unprivileged returns the first of the users that exists where this process is
// root's, which some servers refuse to run as. Otherwise it is nil.
func unprivileged(names ...string) (*owner, error) {
	if os.Geteuid() != 0 {
		return nil, nil // this process's own
	}
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uerr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gerr := strconv.ParseUint(u.Gid, 10, 32)
		if uerr == nil && gerr == nil {
			return &owner{uint32(uid), uint32(gid)}, nil
		}
	}
	return nil, fmt.Errorf("%w: none of the users %v, one of which the server runs as where the tests are root's", ErrMissing, names)
}

// ownGroup makes a process the leader of its group, run by the user.
func ownGroup(o *owner) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true}
	if o != nil {
		a.Credential = &syscall.Credential{Uid: o.uid, Gid: o.gid}
	}
	return a
}

func (o *owner) own(name string) error {
	if o == nil {
		return nil
	}
	return os.Chown(name, int(o.uid), int(o.gid))
}

const (
	sigStop = syscall.SIGSTOP
	sigCont = syscall.SIGCONT
	sigKill = syscall.SIGKILL
	sigTerm = syscall.SIGTERM
	sigInt  = syscall.SIGINT
)

// signal sends a signal to a process, or to a group with a negative number. One
// that is not there is no error.
func signal(pid int, s syscall.Signal) error {
	if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return os.NewSyscallError("kill", err)
	}
	return nil
}
