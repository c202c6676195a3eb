package stores_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/idem-go/idem/cmd/idem/internal/stores"
	"github.com/idem-go/idem/driver"
)

func TestParse(t *testing.T) {
	for dsn, want := range map[string]string{
		"memory:":                "memory:",
		"memory://":              "memory:",
		"MEMORY:":                "memory:",
		"file:./idem-data":       "file:./idem-data",
		"file:idem data":         "file:idem data",
		"file:/var/lib/idem":     "file:/var/lib/idem",
		"file:///var/lib/idem":   "file:/var/lib/idem",
		"File:../x:y?z=1#a%20b/": "file:../x:y?z=1#a%20b/",
		"sqlite:records.db":      "sqlite:records.db",
		"sqlite:///var/lib/x.db": "sqlite:/var/lib/x.db",

		"postgres://idem@db/idem":                              "postgres://db/idem",
		"postgresql://idem:secret@db:5432/idem":                "postgresql://db:5432/idem",
		"Postgres://a:b@h1:1,h2:2,[::1]:3/idem?sslmode=prefer": "postgres://h1:1,h2:2,[::1]:3/idem?sslmode=prefer",
		"postgres:///idem?host=/var/run/postgresql":            "postgres:///idem?host=/var/run/postgresql",
		"postgres://db/idem?user=ann&password=x&sslmode=a%20b": "postgres://db/idem?…",
		"postgres://db/a%20b":                                  "postgres://db/…",
		"mysql://a:b@db:3306/idem?tls=true&x=y":                "mysql://db:3306/idem?tls=true&…",
		"mariadb://a:b@/idem?socket=/run/mysqld.sock":          "mariadb:///idem?socket=/run/mysqld.sock",
		"redis://:secret@10.0.0.1:6379/0":                      "redis://10.0.0.1:6379/0",
		"rediss://db":                                          "rediss://db",
		"redis://a:1,b:2?sentinel=main&sentinel_password=x":    "redis://a:1,b:2?sentinel=main&…",
		"valkey://db/1":                                        "valkey://db/1",
		"nats://token@n1,n2:4222/idem?replicas=3&tls=true":     "nats://n1,n2:4222/idem?replicas=3&tls=true",
		"tls://n1/idem?ca=/etc/ca.pem":                         "tls://n1/idem?ca=/etc/ca.pem",
	} {
		d, err := stores.Parse(dsn)
		if err != nil || d.String() != want {
			t.Errorf("%q: %q %v", dsn, d, err)
		}
	}
	for _, dsn := range []string{"", "memory", "idem-data", "./idem-data", "file:", "file://", "file://host/dir", "memory:x", ":x", "file:a\x00b",
		"sqlite:", "sqlite://host/x.db", "sqlite::memory:", "sqlite:x.db?mode=ro", "sqlite:a\x00b",
		"postgres:", "postgres:db", "postgres:/db/idem", "postgres://db:port/idem", "postgres://db:0/idem", "postgres://db:65536/idem",
		"postgres://a b/idem", "postgres://db,/idem", "postgres://[::1/idem", "postgres://[db]/idem", "postgres://db\x00/idem", "postgres://d\x1bb/idem",
		"redis://", "redis:///0", "redis://:6379", "nats://", "nats:///idem", "http://db", "pg://db"} {
		if d, err := stores.Parse(dsn); !errors.Is(err, stores.ErrDSN) {
			t.Errorf("%q: %q %v", dsn, d, err)
		}
	}
}

// What stands after the scheme of a DSN may be a password: neither an error nor
// any way of printing a DSN shows it, wherever in the DSN it was put.
func TestPasswordsAreNeverShown(t *testing.T) {
	const password = "hunter2"
	for _, dsn := range []string{
		"idem:hunter2@tcp(db:3306)/idem", "hunter2", "hunter2@x:1", "hunter2:x", "memory://hunter2@", "file://u:hunter2@host/dir", "host=db password=hunter2:x",
		"mongodb://idem:hunter2@db/idem", "mysql://idem:hunter2@tcp(db)/idem", "sqlite://idem:hunter2@host/x.db", "sqlite:x.db?_key=hunter2",
		"postgres:idem:hunter2@db", "postgres://idem:hunter2", "postgres://idem:hunter2/idem", "postgres://idem:hunter2@db:x/idem",
		"redis://:hunter2", "redis://:hunter2/0", "nats://idem:hunter2/b", "redis://:hunter2@", "redis://:hunter2@/0", "nats://u:hunter2@ /b",
	} {
		_, err := stores.Parse(dsn)
		if err == nil {
			t.Errorf("%q is a store", dsn)
		} else if strings.Contains(err.Error(), password) {
			t.Errorf("%q: its password is in %q", dsn, err)
		} else if !regexp.MustCompile(`file:|memory:|sqlite:|[a-z]+://`).MatchString(err.Error()) {
			t.Errorf("%q: what is known is not named in %q", dsn, err)
		}
	}
	for _, dsn := range []string{
		"postgres://idem:hunter2@127.0.0.1:1/idem?connect_timeout=1", "postgres://127.0.0.1:1/idem?user=idem&password=hunter2", "postgres://127.0.0.1:1/idem?hunter2",
		"postgres://127.0.0.1:1/idem?sslmode=hunter2%20", "postgres://127.0.0.1:1/idem?application_name=x&sslpassword=hunter2", "postgres://idem:hunter2@?host=/nowhere", "postgres://idem:a@hunter2@127.0.0.1:1/idem",
		"postgres://idem:a/hunter2@127.0.0.1:1/idem", "postgres://idem:a?hunter2@127.0.0.1:1/idem", "postgres://idem:a#hunter2@127.0.0.1:1/idem",
		"postgres://idem:a%ZZhunter2@127.0.0.1:1/idem", "postgres://idem:hunter2%00@127.0.0.1:1/idem", "postgres://127.0.0.1:1/idem?sslmode=verify-full&sslrootcert=/nowhere&password=hunter2",
		"mysql://idem:hunter2@127.0.0.1:1/idem", "mysql://idem:hunter2@127.0.0.1:1", "mysql://idem:a%ZZhunter2@127.0.0.1:1/idem", "mysql://127.0.0.1:1/idem?password=hunter2",
		"mysql://idem:hunter2@127.0.0.1:1/idem?tls-ca=/nowhere", "mysql://idem:a/hunter2@127.0.0.1:1/idem", "mysql://idem:a@hunter2@127.0.0.1:1/idem",
		"redis://idem:hunter2@127.0.0.1:1/0", "redis://:hunter2@127.0.0.1:1", "rediss://:hunter2@127.0.0.1:1", "redis://127.0.0.1:1?password=hunter2",
		"redis://127.0.0.1:1?sentinel=x&sentinel_password=hunter2", "redis://hunter2@127.0.0.1:1", "redis://:a%ZZhunter2@127.0.0.1:1", "redis://:hunter2@127.0.0.1:1/x",
		"nats://idem:hunter2@127.0.0.1:1/idem", "nats://hunter2@127.0.0.1:1", "tls://idem:hunter2@127.0.0.1:1", "nats://127.0.0.1:1?pass=hunter2", "nats://u:%ZZhunter2@127.0.0.1:1",
		"nats://127.0.0.1:1?creds=/nowhere&x=hunter2", "tls://u:hunter2@127.0.0.1:1?ca=/nowhere",
	} {
		d, err := stores.Parse(dsn)
		if err != nil {
			t.Errorf("%q: %v", dsn, err)
			continue
		}
		var log bytes.Buffer
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "store", d, "struct", struct{ D stores.DSN }{d})
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "store", d, "struct", struct{ D stores.DSN }{d})
		shown := log.String()
		for _, form := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			shown += fmt.Sprintf(form, d) + fmt.Sprintf(form, &d) + fmt.Sprintf(form, struct{ d stores.DSN }{d}) + fmt.Sprintf(form, []stores.DSN{d})
		}
		if b, err := json.Marshal(d); err != nil || strings.Contains(string(b), password) {
			t.Errorf("%q: as JSON: %s %v", dsn, b, err)
		}
		if strings.Contains(shown, password) || strings.Contains(shown, hex.EncodeToString([]byte(password))) {
			i := strings.Index(shown, password)
			t.Errorf("%q: its password is printed: …%s…", dsn, shown[max(0, i-60):max(0, i)+len(password)])
		}
		log.Reset()
		o := &stores.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}
		_, _, openErr := d.Open(context.Background(), o)
		_, migrateErr := d.Migrate(context.Background(), o)
		_, checkErr := d.Check(context.Background(), o)
		for what, err := range map[string]error{"open": openErr, "migrate": migrateErr, "check": checkErr} {
			if err == nil || strings.Contains(fmt.Sprintf("%v %+v", err, err), password) {
				t.Errorf("%s %q: %v", what, dsn, err)
			}
			for e := err; e != nil; e = errors.Unwrap(e) {
				if strings.Contains(e.Error(), password) {
					t.Errorf("%s %q: the password is in a cause: %v", what, dsn, e)
				}
			}
		}
		if strings.Contains(log.String(), password) {
			t.Errorf("%q: its password is logged: %s", dsn, &log)
		}
	}
}

func TestUnknownSchemeIsNamed(t *testing.T) {
	_, err := stores.Parse("mongodb://db/idem")
	if err == nil {
		t.Fatal("mongodb: is known")
	}
	for _, s := range []string{"mongodb:", "memory:, file:DIR, sqlite:FILE, postgres://", "mysql://", "redis://", "nats://"} {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("no %q in: %v", s, err)
		}
	}
}

// A server that accepts connections and then says nothing is given up in time.
func TestServersThatSayNothing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	defer func() {
		_ = l.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
		}
	}()
	var wg sync.WaitGroup
	for _, scheme := range []string{"postgres", "mysql", "redis", "nats", "rediss", "tls"} {
		wg.Go(func() {
			d, err := stores.Parse(scheme + "://idem:hunter2@" + l.Addr().String() + "/0")
			if err != nil {
				t.Error(err)
				return
			}
			began := time.Now()
			_, _, err = d.Open(context.Background(), nil)
			if took := time.Since(began); err == nil || took > stores.Patience+2*time.Second {
				t.Errorf("%s: %v after %v", scheme, err, took)
			} else {
				t.Logf("%s: after %v: %v", scheme, took.Round(time.Millisecond), err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			began = time.Now()
			if _, err := d.Check(ctx, nil); err == nil || time.Since(began) > 2*time.Second {
				t.Errorf("%s: a context of 100ms: %v after %v", scheme, err, time.Since(began))
			}
		})
	}
	wg.Wait()
}

// A SQLite file is made by migrate, and by nothing else.
func TestSQLiteFileIsMadeByMigrate(t *testing.T) {
	ctx := context.Background()
	name := filepath.Join(t.TempDir(), "records #1.db")
	d, err := stores.Parse("sqlite:" + name)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Open(ctx, nil); err == nil || !stores.NeedsMigration(err) {
		t.Errorf("opened before it was made: %v", err)
	}
	if found, err := d.Check(ctx, nil); err != nil || len(found) != 1 || found[0].Severity != driver.SeverityError {
		t.Errorf("checked before it was made: %v %v", found, err)
	}
	if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the file is there: %v", err)
	}
	if m, err := d.Migrate(ctx, nil); err != nil || m.Was == "" {
		t.Fatalf("migrate: %+v %v", m, err)
	}
	if m, err := d.Migrate(ctx, nil); err != nil || m.Was != "" || m.Needless {
		t.Errorf("migrate again: %+v %v", m, err)
	}
	found, err := d.Check(ctx, nil)
	if err != nil || len(found) < 5 {
		t.Errorf("check: %v %v", found, err)
	}
	for _, f := range found {
		if f.Severity > driver.SeverityUnknown {
			t.Errorf("check: %+v", f)
		}
	}
}

// What check says of the stores that have no server.
func TestCheckLocalStores(t *testing.T) {
	ctx := context.Background()
	worst := func(dsn string) driver.Severity {
		t.Helper()
		d, err := stores.Parse(dsn)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := d.Migrate(ctx, nil); err != nil || !m.Needless {
			t.Errorf("migrate %s: %+v %v", dsn, m, err)
		}
		found, err := d.Check(ctx, nil)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v %v", dsn, found, err)
		}
		var s driver.Severity
		for _, f := range found {
			s = max(s, f.Severity)
			if f.Severity > driver.SeverityOK && (f.Means == "" || f.Remedy == "") {
				t.Errorf("%s: nothing is said of %+v", dsn, f)
			}
		}
		return s
	}
	if s := worst("memory:"); s != driver.SeverityWarning {
		t.Errorf("memory: %v", s)
	}
	dir := filepath.Join(t.TempDir(), "new")
	if s := worst("file:" + dir); s != driver.SeverityOK {
		t.Errorf("a directory that is not there: %v", s)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("check made the directory: %v", err)
	}
	empty := t.TempDir()
	if s := worst("file:" + empty); s != driver.SeverityOK {
		t.Errorf("a directory that is empty: %v", s)
	}
	if names, err := os.ReadDir(empty); err != nil || len(names) != 0 {
		t.Errorf("check made a store: %v %v", names, err)
	}
	d, err := stores.Parse("file:" + dir)
	if err != nil {
		t.Fatal(err)
	}
	_, closeStore, err := d.Open(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s := worst("file:" + dir); s != driver.SeverityUnknown {
		t.Errorf("a directory in use: %v", s)
	}
	if err := closeStore(); err != nil {
		t.Fatal(err)
	}
	if s := worst("file:" + dir); s != driver.SeverityOK {
		t.Errorf("a directory that was closed: %v", s)
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "letters"), []byte("dear ann"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s := worst("file:" + other); s != driver.SeverityError {
		t.Errorf("another's directory: %v", s)
	}
}

func TestOpen(t *testing.T) {
	for scheme, text := range map[string]string{"memory": "memory:", "file": "file:" + t.TempDir() + "/new/er"} {
		d, err := stores.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		store, closeStore, err := d.Open(context.Background(), &stores.Options{MaxUnknown: 7, MaxResult: 100 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := driver.As[driver.Pinger](store); !ok || p.Ping(context.Background()) != nil {
			t.Errorf("%s: does not answer", scheme)
		}
		info, ok := driver.As[driver.Describer](store)
		if !ok || info.Describe().Name != scheme || info.Describe().Durable != (scheme == "file") || info.Describe().MaxResult < 100<<20 {
			t.Errorf("%s: says of itself: %+v", scheme, info.Describe())
		}
		if err := closeStore(); err != nil {
			t.Error(err)
		}
	}
}
