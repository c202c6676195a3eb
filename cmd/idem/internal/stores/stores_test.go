package stores_test

import (
	"context"
	"errors"
	"strings"
	"testing"

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
	} {
		d, err := stores.Parse(dsn)
		if err != nil || d.String() != want {
			t.Errorf("%q: %q %v", dsn, d, err)
		}
	}
	for _, dsn := range []string{"", "memory", "idem-data", "./idem-data", "file:", "file://", "file://host/dir", "memory:x", ":x", "file:a\x00b"} {
		if d, err := stores.Parse(dsn); !errors.Is(err, stores.ErrDSN) {
			t.Errorf("%q: %q %v", dsn, d, err)
		}
	}
}

// What stands after the scheme of a DSN may be a password.
func TestPasswordsAreNeverShown(t *testing.T) {
	const password = "hunter2"
	for _, dsn := range []string{
		"postgres://idem:hunter2@db/idem", "redis://:hunter2@10.0.0.1:6379/0", "mysql://idem:hunter2@tcp(db)/idem",
		"idem:hunter2@tcp(db:3306)/idem", "hunter2", "hunter2@x:1", "memory://hunter2@", "file://u:hunter2@host/dir", "host=db password=hunter2:x",
	} {
		_, err := stores.Parse(dsn)
		if err == nil {
			t.Errorf("%q is a store", dsn)
		} else if strings.Contains(err.Error(), password) {
			t.Errorf("%q: its password is in %q", dsn, err)
		} else if !strings.Contains(err.Error(), "file:") && !strings.Contains(err.Error(), "memory:") {
			t.Errorf("%q: what is known is not named in %q", dsn, err)
		}
	}
}

func TestUnknownSchemeIsNamed(t *testing.T) {
	_, err := stores.Parse("postgres://db/idem")
	if err == nil || !strings.Contains(err.Error(), "postgres:") || !strings.Contains(err.Error(), "memory: and file:DIR") {
		t.Errorf("%v", err)
	}
}

func TestOpen(t *testing.T) {
	for scheme, text := range map[string]string{"memory": "memory:", "file": "file:" + t.TempDir() + "/new/er"} {
		d, err := stores.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		store, closeStore, err := d.Open(&stores.Options{MaxUnknown: 7, MaxResult: 100 << 20})
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
