package filestore_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/idem-go/idem/filestore"
)

// A directory that is removed or replaced under a running store: what it writes
// would be found by nobody, so it stops, and leaves alone what is there now.
func TestStopsWhenItsDirectoryIsReplaced(t *testing.T) {
	for name, replace := range map[string]func(dir string) error{
		"moved":   func(dir string) error { return os.Rename(dir, dir+".old") },
		"removed": os.RemoveAll,
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			s, err := filestore.Open(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			s.CheckSpace()
			fill(t, s, "s", 0, 3, 10)
			if err := replace(dir); err != nil {
				t.Fatal(err)
			}
			// What another process that opened the path would have made.
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"LOCK", "pid"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte("1\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			s.CheckSpace()
			if err := s.Ping(t.Context()); !errors.Is(err, filestore.ErrStopped) {
				t.Errorf("the store goes on: %v", err)
			}
			_ = s.Close() // it has said what is wrong
			if _, err := os.Stat(filepath.Join(dir, "pid")); err != nil {
				t.Errorf("the other's pid is gone: %v", err)
			}
		})
	}
}
