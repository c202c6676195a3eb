package filestore_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/filestore"
)

const goldenStore = "testdata/format1.tar.gz"

// goldenKey is a key of the golden store, with what it reads as when the store is
// opened at the time at which it was closed.
type goldenKey struct {
	id    string
	state driver.State
	make  func(t *testing.T, s *filestore.Store, ref driver.Ref)
	check func(t *testing.T, rec driver.Record)
}

func goldenKeys() []goldenKey {
	completion := driver.Completion{
		Result: driver.Result{Meta: []byte("201"), Body: []byte("made")}, Retention: time.Hour, Tombstone: 24 * time.Hour,
	}
	must := func(t *testing.T, err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	return []goldenKey{
		{"completed", driver.StateCompleted, func(t *testing.T, s *filestore.Store, ref driver.Ref) {
			_, err := s.Complete(t.Context(), ref, completion)
			must(t, err)
		}, func(t *testing.T, rec driver.Record) {
			if string(rec.Result.Meta) != "201" || string(rec.Result.Body) != "made" || rec.Left != time.Hour || rec.Scope != "golden" {
				t.Errorf("completed: %+v", rec)
			}
		}},
		{"dropped", driver.StateCompleted, func(t *testing.T, s *filestore.Store, ref driver.Ref) {
			_, err := s.Complete(t.Context(), ref, driver.Completion{Dropped: true, Retention: time.Hour, Tombstone: time.Hour})
			must(t, err)
		}, func(t *testing.T, rec driver.Record) {
			if !rec.Dropped {
				t.Errorf("dropped: %+v", rec)
			}
		}},
		{"erased", driver.StateForgotten, func(t *testing.T, s *filestore.Store, ref driver.Ref) {
			_, err := s.Complete(t.Context(), ref, completion)
			must(t, err)
			_, err = s.Resolve(t.Context(), ref.Key, driver.Resolution{
				Action: driver.ResolveErase, Retention: time.Hour, Tombstone: 24 * time.Hour, Note: "on request",
			})
			must(t, err)
		}, func(t *testing.T, rec driver.Record) {
			if rec.Note != "on request" || rec.Left != 24*time.Hour || rec.Result.Size() != 0 {
				t.Errorf("erased: %+v", rec)
			}
		}},
		{"abandoned", driver.StateUnknown, func(t *testing.T, s *filestore.Store, ref driver.Ref) {
			must(t, s.Abandon(t.Context(), ref))
		}, nil},
		{"in-flight", driver.StateUnknown, func(*testing.T, *filestore.Store, driver.Ref) {}, nil},
		{"released", driver.StateAbsent, func(t *testing.T, s *filestore.Store, ref driver.Ref) {
			must(t, s.Release(t.Context(), ref, driver.Release{Answered: true, Retention: time.Hour}))
		}, func(t *testing.T, rec driver.Record) {
			if rec.Attempt != 1 || !rec.Answered {
				t.Errorf("released: %+v", rec)
			}
		}},
	}
}

// Trap 60: a store that the first version wrote opens, and reads as it did.
func TestTrap60AGoldenStore(t *testing.T) {
	clock := filestore.NewTestClock()
	o := filestore.Options{SweepEvery: -1}
	if flag.Lookup("update").Value.String() == "true" {
		dir := t.TempDir()
		s := mustOpen(t, dir, o.WithClock(clock))
		for _, k := range goldenKeys() {
			reply, err := s.Claim(t.Context(), driver.ClaimRequest{
				Key: driver.KeyOf("golden", k.id), Scope: "golden", ID: k.id, Nonce: driver.Nonce{1},
				Fingerprint: driver.Fingerprint{Rule: 1, Sum: driver.KeyOf("golden", "asked")},
				Lease:       time.Minute, Tombstone: time.Hour,
			})
			if err != nil {
				t.Fatal(err)
			}
			k.make(t, s, driver.Ref{Key: driver.KeyOf("golden", k.id), Token: reply.Record.Token})
		}
		closeStore(t, s)
		if err := packDir(dir, goldenStore); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	if err := unpackDir(goldenStore, dir); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, dir, o.WithClock(clock))
	for _, k := range goldenKeys() {
		rec := stateOf(t, s, "golden", k.id, k.state)
		if rec.Token == 0 || rec.Attempt != 1 {
			t.Errorf("%s: token %d, attempt %d", k.id, rec.Token, rec.Attempt)
		}
		if k.check != nil {
			k.check(t, rec)
		}
	}
	st, err := s.Stats(t.Context())
	if err != nil || st.Completed != 2 || st.Forgotten != 1 || st.Unknown != 2 {
		t.Errorf("counted %+v: %v", st, err)
	}
	fill(t, s, "new", 0, 3, 10)
}

func packDir(dir, file string) error {
	var buf bytes.Buffer
	zip := gzip.NewWriter(&buf)
	w := tar.NewWriter(zip)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		return err
	}
	if err := errors.Join(w.Close(), zip.Close()); err != nil {
		return err
	}
	return os.WriteFile(file, buf.Bytes(), 0o600)
}

func unpackDir(file, dir string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.FileInfo().IsDir() {
			if err := os.MkdirAll(path, 0o700); err != nil {
				return err
			}
			continue
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			return err
		}
	}
}
