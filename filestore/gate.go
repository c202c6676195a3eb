package filestore

import (
	"errors"
	"io"
	"io/fs"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// gate is the file system as the engine sees it. It lets everything through
// until a write, a sync or a change of a directory fails. From then on nothing
// is written any more, by anybody: the failing call, and every later one that
// would change something, does not return. For the files this is what a power
// cut at that instant would be, and that is what they are made for; what the
// engine would do with the error (end the process, try again on a file of which
// the kernel has dropped pages) is not.
//
// The goroutines that stand in such a call stay there until the process ends.
// They hold no lock of the store's.
type gate struct {
	vfs.FS

	mu     sync.RWMutex
	closed bool
	// fail is called once, with the error that closed the gate.
	fail func(error)
}

// do makes one change. It returns errors only that are no failures of the disk.
func (g *gate) do(what string, change func() error) error {
	g.mu.RLock()
	if g.closed {
		g.mu.RUnlock()
		park()
	}
	err := change()
	g.mu.RUnlock()
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) {
		return err
	}
	g.shut(&diskError{what, err})
	park()
	return nil
}

// shut closes the gate and waits for changes under way to end. A nil error
// closes it without saying so.
func (g *gate) shut(err error) {
	g.mu.Lock()
	first := !g.closed
	g.closed = true
	g.mu.Unlock()
	if first && err != nil {
		g.fail(err)
	}
}

// park never returns.
func park() { select {} }

// diskError says which operation failed.
type diskError struct {
	what string
	err  error
}

func (e *diskError) Error() string { return e.what + ": " + e.err.Error() }
func (e *diskError) Unwrap() error { return e.err }

func (g *gate) file(what string, open func() (vfs.File, error)) (vfs.File, error) {
	var f vfs.File
	err := g.do(what, func() (err error) {
		f, err = open()
		return err
	})
	if err != nil {
		return nil, err
	}
	return &gateFile{f, g}, nil
}

func (g *gate) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return g.file("create", func() (vfs.File, error) { return g.FS.Create(name, c) })
}

func (g *gate) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return g.file("open", func() (vfs.File, error) { return g.FS.OpenReadWrite(name, c, opts...) })
}

func (g *gate) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return g.file("reuse", func() (vfs.File, error) { return g.FS.ReuseForWrite(oldname, newname, c) })
}

func (g *gate) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &gateFile{f, g}, nil
}

func (g *gate) Link(oldname, newname string) error {
	return g.do("link", func() error { return g.FS.Link(oldname, newname) })
}

func (g *gate) Rename(oldname, newname string) error {
	return g.do("rename", func() error { return g.FS.Rename(oldname, newname) })
}

func (g *gate) MkdirAll(dir string, perm fs.FileMode) error {
	return g.do("mkdir", func() error { return g.FS.MkdirAll(dir, perm) })
}

func (g *gate) Remove(name string) error {
	return g.do("remove", func() error { return g.FS.Remove(name) })
}

func (g *gate) RemoveAll(name string) error {
	return g.do("remove", func() error { return g.FS.RemoveAll(name) })
}

// Lock gives the engine a lock that locks nothing: the store has locked the
// directory above, and outlives the engine.
func (g *gate) Lock(string) (io.Closer, error) { return nopCloser{}, nil }

func (g *gate) Unwrap() vfs.FS { return g.FS }

type nopCloser struct{}

func (nopCloser) Close() error { return nil }

type gateFile struct {
	vfs.File
	g *gate
}

func (f *gateFile) Write(p []byte) (n int, err error) {
	err = f.g.do("write", func() (err error) {
		n, err = f.File.Write(p)
		return err
	})
	return n, err
}

func (f *gateFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.g.do("write", func() (err error) {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	return n, err
}

func (f *gateFile) Sync() error { return f.g.do("sync", f.File.Sync) }

func (f *gateFile) SyncData() error { return f.g.do("sync", f.File.SyncData) }

func (f *gateFile) SyncTo(length int64) (full bool, err error) {
	err = f.g.do("sync", func() (err error) {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, err
}
