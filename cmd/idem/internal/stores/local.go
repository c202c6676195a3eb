package stores

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/filestore"
	"github.com/idem-go/idem/memstore"
)

// memory is the store in this process.
func memory() kind {
	return kind{
		schemes: []string{"memory"},
		form:    "memory:",
		parse: func(scheme, rest string) (DSN, error) {
			if strings.Trim(rest, "/") != "" {
				return DSN{}, errors.New("memory: has no name, path or settings")
			}
			return newDSN(scheme, scheme+":", secret{}), nil
		},
		engine: engine{
			open: func(_ context.Context, _ string, o Options) (closer, error) {
				return memstore.New(&memstore.Options{MaxUnknown: o.MaxUnknown, MaxResult: o.MaxResult}), nil
			},
			check: func(context.Context, string, Options) ([]driver.Finding, error) {
				return []driver.Finding{{
					Severity: driver.SeverityWarning, Subject: "durability", Found: "none",
					Means:  "Everything is forgotten when the process ends: a request that is sent again after that runs again.",
					Remedy: "Keep records in file:DIR, or in a database.",
				}}, nil
			},
		},
	}
}

// file is the embedded store, which one process has to itself.
func file() kind {
	return kind{
		schemes: []string{"file"},
		form:    "file:DIR",
		parse: func(scheme, rest string) (DSN, error) {
			dir, err := path(scheme, rest)
			return newDSN(scheme, scheme+":"+dir, secret{text: dir}), err
		},
		engine: engine{
			open: func(_ context.Context, dir string, o Options) (closer, error) {
				return opened(filestore.Open(dir, &filestore.Options{MaxUnknown: o.MaxUnknown, MaxResult: o.MaxResult, Logger: o.Logger}))
			},
			check: checkFile,
		},
	}
}

// path reads the rest of a DSN that names a file or a directory:
// scheme:///var/lib/idem is the form of a URL, scheme://DIR would name a host.
func path(scheme, rest string) (string, error) {
	if after, url := strings.CutPrefix(rest, "//"); url {
		if !strings.HasPrefix(after, "/") {
			return "", fmt.Errorf("%s:// is followed by an absolute path", scheme)
		}
		rest = after
	}
	if rest == "" {
		return "", fmt.Errorf("%s: names no file or directory", scheme)
	}
	return rest, nil
}

// checkFile opens a directory that is a store already, as a proxy would, and
// closes it again.
func checkFile(ctx context.Context, dir string, o Options) (found []driver.Finding, err error) {
	note := func(severity driver.Severity, subject, text, means, remedy string) {
		found = append(found, driver.Finding{Severity: severity, Subject: subject, Found: text, Means: means, Remedy: remedy})
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
		note(driver.SeverityOK, "directory", "not there yet; it is made at the first start", "", "")
		return found, nil
	}
	s, err := filestore.Open(dir, &filestore.Options{MaxUnknown: o.MaxUnknown, SweepEvery: -1, Logger: o.Logger})
	switch {
	case errors.Is(err, filestore.ErrInUse):
		note(driver.SeverityOK, "directory", err.Error(), "", "")
		note(driver.SeverityUnknown, "records", "not looked at", "The process that has the directory has it to itself.", "Ask its /readyz and /metrics, or stop it first.")
		return found, nil
	case err != nil:
		note(driver.SeverityError, "directory", err.Error(), "The store cannot be used.", "Restore the directory from a backup, or name another one.")
		return found, nil
	}
	defer func() {
		if cerr := s.Close(); cerr != nil {
			note(driver.SeverityError, "closing", cerr.Error(), "What was acknowledged may not be on the disk.", "See to the disk.")
		}
	}()
	note(driver.SeverityOK, "directory", "opened; what it promised is there", "", "")
	switch err := s.Ping(ctx); {
	case errors.Is(err, driver.ErrFull):
		note(driver.SeverityWarning, "room", err.Error(), "Claims of new keys are refused.", "Make room on the disk, and resolve unknown outcomes.")
	case err != nil:
		note(driver.SeverityError, "room", err.Error(), "Claims are refused.", "See to the disk.")
	default:
		note(driver.SeverityOK, "room", "enough", "", "")
	}
	if stats, err := s.Stats(ctx); err == nil {
		note(driver.SeverityOK, "records", fmt.Sprintf("%d completed, %d forgotten, %d unknown, %d bytes", stats.Completed, stats.Forgotten, stats.Unknown, stats.Bytes), "", "")
	}
	return found, nil
}
