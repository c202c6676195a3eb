package filestore

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The files of a store's directory. Their names are part of the format.
const (
	// headerName says that the directory is a store, and of which format.
	headerName = "IDEM"
	// headerNew stands for it until a new store is complete.
	headerNew  = "IDEM.new"
	lockName   = "LOCK"
	pidName    = "pid"
	engineName = "db"
)

// formatVersion is the version of the directory's layout and of all that is in
// it but the records, which have a version of their own.
const formatVersion = 1

// The errors of Open that a program may want to tell apart. They are found with
// errors.Is.
var (
	// ErrInUse: another process has the directory open, or this one has.
	ErrInUse = errors.New("filestore: directory is in use")
	// ErrDamaged: files are missing or damaged, or less came back than had been
	// acknowledged. Nothing in the directory has been changed.
	ErrDamaged = errors.New("filestore: directory is damaged")
	// ErrFormat: the directory is not a store's, or was written by a newer
	// version.
	ErrFormat = errors.New("filestore: directory has another format")
)

// openError is an error of Open: one sentence, and its kind for errors.Is.
type openError struct {
	text string
	kind error
	err  error
}

func (e *openError) Error() string { return "filestore: " + e.text }

func (e *openError) Unwrap() []error {
	if e.err == nil {
		return []error{e.kind}
	}
	return []error{e.kind, e.err}
}

func damaged(dir, what string, err error) error {
	return &openError{
		fmt.Sprintf("%s is damaged: %s; restore the whole directory from a backup, or start with an empty one, which knows nothing of what was done", dir, what),
		ErrDamaged, err,
	}
}

// directory is a store's directory, locked.
type directory struct {
	fs   vfs.FS
	path string
	lock io.Closer
	// locked is the file of the lock, as it was when it was taken; nil where the
	// file system is not the operating system's.
	locked os.FileInfo
	// fresh says that there is no store in it yet.
	fresh bool
}

func (d *directory) join(name string) string { return d.fs.PathJoin(d.path, name) }

// openDirectory locks the directory, makes it if it is not there, and looks at
// what is in it. It changes nothing in a store.
func openDirectory(fsys vfs.FS, path string) (*directory, error) {
	if path == "" {
		return nil, &openError{"the directory has no name", ErrFormat, nil}
	}
	if err := fsys.MkdirAll(path, 0o700); err != nil {
		return nil, unwritable(path, err)
	}
	d := &directory{fs: fsys, path: path}
	var err error
	if d.lock, err = fsys.Lock(d.join(lockName)); err != nil {
		return nil, d.lockError(err)
	}
	if fsys == vfs.Default {
		if d.locked, err = os.Stat(d.join(lockName)); err != nil {
			return nil, errors.Join(unwritable(path, err), d.lock.Close())
		}
	}
	if err := d.look(); err != nil {
		return nil, errors.Join(err, d.lock.Close())
	}
	if err := d.writeFile(pidName, strconv.Itoa(os.Getpid())+"\n", false); err != nil {
		return nil, errors.Join(unwritable(path, err), d.lock.Close())
	}
	return d, nil
}

// realPath names a directory of the operating system's in one way, whatever way
// it was given: locks are by name within a process.
func realPath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("filestore: %w", err)
	}
	if direct, err := filepath.EvalSymlinks(abs); err == nil {
		return direct, nil
	}
	return abs, nil
}

func (d *directory) lockError(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return unwritable(d.path, err)
	}
	who := "another process"
	if b, err := d.readFile(pidName); err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			if who = fmt.Sprintf("process %d", pid); pid == os.Getpid() {
				who = fmt.Sprintf("this process (%d) already", pid)
			}
		}
	}
	return &openError{
		fmt.Sprintf("%s is in use by %s; stop that one, or choose another directory", d.path, who),
		ErrInUse, err,
	}
}

func unwritable(path string, err error) error {
	hint := "see that the path can be made and written by this user"
	switch {
	case errors.Is(err, syscall.EROFS):
		hint = "it is on a read-only file system; choose another directory"
	case errors.Is(err, fs.ErrPermission):
		hint = "make it writable for the user of this process, or choose another directory"
	case errors.Is(err, syscall.ENOSPC):
		hint = "the disk is full; make room"
	case errors.Is(err, syscall.ENOTDIR):
		hint = "it, or a part of its path, is not a directory"
	}
	return fmt.Errorf("filestore: %s cannot be written: %w; %s", path, err, hint)
}

// look finds out what is in the directory, and takes away what an opening has
// left that never came to its end.
func (d *directory) look() error {
	names, err := d.fs.List(d.path)
	if err != nil {
		return unwritable(d.path, err)
	}
	has := func(name string) bool { return slices.Contains(names, name) }
	names = slices.DeleteFunc(names, func(n string) bool {
		return n == lockName || n == pidName || n == "lost+found"
	})
	slices.Sort(names)
	switch {
	case has(headerName):
		return d.readHeader()
	case has(headerNew):
		// Nothing was ever acknowledged from here.
		d.fresh = true
		for _, name := range []string{engineName, markName} {
			if err := d.fs.RemoveAll(d.join(name)); err != nil {
				return unwritable(d.path, err)
			}
		}
		return nil
	case len(names) == 0:
		d.fresh = true
		return nil
	case has(engineName) || has(markName):
		return damaged(d.path, "the file "+headerName+" is missing", nil)
	}
	return &openError{
		fmt.Sprintf("%s holds other files (%s) and no store; choose an empty directory, or one that does not exist yet", d.path, list(names)),
		ErrFormat, nil,
	}
}

func list(names []string) string {
	if len(names) > 3 {
		names = append(slices.Clone(names[:3]), "…")
	}
	return strings.Join(names, ", ")
}

func header() string {
	text := fmt.Sprintf("idem file store\nformat %d\n", formatVersion)
	return fmt.Sprintf("%scrc32c %08x\n", text, crc32.Checksum([]byte(text), castagnoli()))
}

func (d *directory) readHeader() error {
	b, err := d.readFile(headerName)
	if err != nil {
		return damaged(d.path, "the file "+headerName+" cannot be read: "+err.Error(), err)
	}
	if string(b) == header() {
		return nil
	}
	var version, sum uint32
	text, tail, _ := strings.Cut(string(b), "crc32c ")
	_, err = fmt.Sscanf(text, "idem file store\nformat %d\n", &version)
	_, err2 := fmt.Sscanf(tail, "%08x\n", &sum)
	if err != nil || err2 != nil || version <= formatVersion || sum != crc32.Checksum([]byte(text), castagnoli()) {
		return damaged(d.path, "the file "+headerName+" is not what was written there", nil)
	}
	return &openError{
		fmt.Sprintf("%s has the format %d, this program reads %d; use a version of idem that is as new as the one that wrote it", d.path, version, formatVersion),
		ErrFormat, nil,
	}
}

// begin says that a store is being made.
func (d *directory) begin() error {
	if err := d.writeFile(headerNew, header(), true); err != nil {
		return unwritable(d.path, err)
	}
	return nil
}

// finish says that the store is complete.
func (d *directory) finish(fs vfs.FS) error {
	if err := fs.Rename(d.join(headerNew), d.join(headerName)); err != nil {
		return unwritable(d.path, err)
	}
	if err := syncDir(fs, d.path); err != nil {
		return unwritable(d.path, err)
	}
	return nil
}

func (d *directory) writeFile(name, text string, sync bool) error {
	f, err := d.fs.Create(d.join(name), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if _, err := f.Write([]byte(text)); err != nil {
		return errors.Join(err, f.Close())
	}
	if sync {
		if err := f.Sync(); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	if !sync {
		return nil
	}
	if err := syncDir(d.fs, d.path); err != nil {
		return err
	}
	parent := d.fs.PathDir(d.path)
	if parent == d.path {
		return nil
	}
	return syncDir(d.fs, parent)
}

func syncDir(fs vfs.FS, path string) error {
	f, err := fs.OpenDir(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *directory) readFile(name string) ([]byte, error) {
	f, err := d.fs.Open(d.join(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 4096))
}

// errReplaced: what is written goes to files that no path leads to any more, so
// nobody will find it at the next start; and another process may have opened
// what is there now.
var errReplaced = errors.New("the directory was removed or replaced while the store was open")

// held returns errReplaced when the directory's path leads elsewhere than when
// it was opened. Other failures to look are left to those who read and write.
func (d *directory) held() error {
	if d.locked == nil {
		return nil
	}
	now, err := os.Stat(d.join(lockName))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(now, d.locked) {
		return errReplaced
	}
	return nil
}

// close gives the directory back.
func (d *directory) close() error {
	if d.held() != nil {
		return d.lock.Close() // the file with a pid there is somebody else's
	}
	err := d.fs.Remove(d.join(pidName))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, d.lock.Close())
}

// size is what the files take, in bytes.
func (d *directory) size() int64 {
	total := int64(0)
	for _, dir := range []string{d.path, d.join(engineName)} {
		names, err := d.fs.List(dir)
		if err != nil {
			continue
		}
		for _, name := range names {
			// A file that has gone meanwhile takes nothing.
			if info, err := d.fs.Stat(d.fs.PathJoin(dir, name)); err == nil && !info.IsDir() {
				total += info.Size()
			}
		}
	}
	return total
}
