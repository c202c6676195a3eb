package sqlitestore_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/sqlitestore"
)

// Whatever bytes a file's name has, it is that file and no other.
func TestNamesOfFiles(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, name := range []string{
		"app.db", "with space.db", "a?b=c.db", "a#b.db", "a%41.db", "a&b;c.db", "ü.db", "a:b.db", "?mode=memory", "file:x", ".hidden",
		filepath.Join(dir, "absolute ?#%.db"),
	} {
		for _, dsn := range []string{"sqlite:" + name, "sqlite://" + name} {
			if strings.HasPrefix(dsn, "sqlite://") && !filepath.IsAbs(name) {
				continue
			}
			db, err := sqlitestore.Connect(t.Context(), dsn)
			if err != nil {
				t.Errorf("%q: %v", dsn, err)
				continue
			}
			migrated(t, db, nil)
			if _, err := os.Stat(name); err != nil {
				t.Errorf("%q made another file: %v", dsn, err)
			}
			must(t, db.Close())
		}
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 12 {
		t.Errorf("there are %d files: %v", len(entries), entries)
	}
}

func TestDSNsThatAreRefused(t *testing.T) {
	for _, dsn := range []string{
		"", "sqlite", "sqlite:", "sqlite://", "sqlite::memory:", "postgres://user:hunter2@host/db", "sqlite://user:hunter2@host/app.db",
		"sqlite://hunter2", "sqlite:/hunter2\x00/app.db", "SQLITE:hunter2", "file:hunter2.db",
	} {
		db, err := sqlitestore.Connect(t.Context(), dsn)
		if err == nil {
			t.Errorf("%q is taken", dsn)
			must(t, db.Close())
			continue
		}
		if strings.Contains(err.Error(), "hunter2") || !strings.HasPrefix(err.Error(), "sqlitestore: ") {
			t.Errorf("%q: %v", dsn, err)
		}
	}
	_, err := sqlitestore.Connect(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "missing", "app.db"))
	if err == nil || !strings.Contains(err.Error(), "its folder is missing") {
		t.Errorf("a folder that is missing: %v", err)
	}
}

// Every connection of a pool of Connect's has the settings that keep the promise.
func TestConnectTunesEveryConnection(t *testing.T) {
	s, err := sqlitestore.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "app.db"), nil)
	if err == nil || !strings.Contains(err.Error(), "idem store migrate") {
		t.Errorf("a file without tables: %v, %v", s, err)
	}
	db, err := sqlitestore.Connect(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "app.db"))
	must(t, err)
	defer db.Close()
	for range 5 {
		conn, err := db.Conn(t.Context())
		must(t, err)
		defer conn.Close()
		for pragma, want := range map[string]string{"synchronous": "2", "journal_mode": "wal", "busy_timeout": "1000"} {
			var got string
			must(t, conn.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got))
			if got != want {
				t.Errorf("%s is %s on a connection; it should be %s", pragma, got, want)
			}
		}
	}
}

func TestOpenClosesWhatItOpened(t *testing.T) {
	dsn := "sqlite:" + filepath.Join(t.TempDir(), "app.db")
	db, err := sqlitestore.Connect(t.Context(), dsn)
	must(t, err)
	migrated(t, db, nil)
	must(t, db.Close())
	s, err := sqlitestore.Open(t.Context(), dsn, nil)
	must(t, err)
	complete(t, s, grant(t, s, request("k")), "x")
	if info := s.Describe(); !info.Durable || !info.Shared || !info.Transactional || info.Name != "sqlite" || info.MaxResult != 16<<20 {
		t.Errorf("it is %+v", info)
	}
	must(t, s.Close())
	must(t, s.Close())
	want(t, s.Ping(t.Context()), driver.ErrClosed, "Ping")
	if err := s.DB().Ping(); err == nil {
		t.Error("the database is still open")
	}
}
