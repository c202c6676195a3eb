package testserver

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// program returns the path of the first of the programs that is found, in PATH
// or in the folders that the patterns name, the last match of each first.
func program(patterns []string, names ...string) (string, error) {
	for _, name := range names {
		if p, err := exec.LookPath(name); err == nil {
			// A link in PATH stands apart from the files beside the program.
			if target, err := filepath.EvalSymlinks(p); err == nil && filepath.Base(target) == name {
				return target, nil
			}
			return p, nil
		}
		for _, pattern := range append(patterns, "/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin") {
			found, err := filepath.Glob(filepath.Join(pattern, name))
			if err != nil {
				return "", fmt.Errorf("testserver: looking for %s: %w", name, err)
			}
			if len(found) > 0 {
				return found[len(found)-1], nil
			}
		}
	}
	return "", fmt.Errorf("%w: %v (neither in PATH nor where distributions keep it); scripts/needs installs it", ErrMissing, names)
}

// faketime returns the library that moves the clock of a program.
func faketime() (string, error) {
	// The one for threads first: servers have them.
	for _, name := range []string{"libfaketimeMT.so.1", "libfaketime.so.1"} {
		for _, dir := range []string{"/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime"} {
			if found, err := filepath.Glob(filepath.Join(dir, name)); err == nil && len(found) > 0 {
				return found[0], nil
			}
		}
	}
	return "", fmt.Errorf("%w: libfaketime, which moves a server's clock; scripts/needs installs it", ErrMissing)
}

// plainMalloc returns the C library's own malloc as a library, or "". A Redis is
// linked with jemalloc, which asks for the time before libfaketime can tell it, and
// hangs; with another malloc it does not.
func plainMalloc() string {
	for _, pattern := range []string{"/lib/*/libc_malloc_debug.so.0", "/usr/lib/*/libc_malloc_debug.so.0", "/lib64/libc_malloc_debug.so.0"} {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			return found[0]
		}
	}
	return ""
}

// NeedClock reports, as ErrMissing, that no server's clock can be moved here.
func NeedClock() error {
	_, err := faketime()
	return err
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}
