package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The quick form of the whole run: every program is built and started, every
// figure comes out, and the pages are written. The figures are not judged.
func TestQuickRun(t *testing.T) {
	docs := t.TempDir()
	page := "# Performance\n\n<!-- bench: what follows is written by make bench -->\nold figures\n<!-- bench: end -->\n\nafter\n"
	if err := os.WriteFile(filepath.Join(docs, "performance.md"), []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	s := quick()
	s.docs, s.dir = docs, t.TempDir()
	var out, progress bytes.Buffer
	r, err := run(context.Background(), s, &out, &progress)
	if err != nil {
		t.Fatalf("%v\n%s", err, &progress)
	}
	for _, c := range r.Proxies.Comparisons {
		if c.Ratio.Median() <= 0 || c.Rate.Median() <= 0 || c.BareRate.Median() <= 0 || c.Allocs.Median() <= 0 {
			t.Errorf("%s has no figures: %+v", c.Name, c)
		}
	}
	if len(r.Proxies.Comparisons) != 9 || len(r.Stores) != 3 || len(r.Shared) != 13 || len(r.Allocs) != 2 {
		t.Errorf("%d comparisons of proxies, %d of stores, %d of shared stores, %d counts of allocations; want 9, 3, 13 and 2", len(r.Proxies.Comparisons), len(r.Stores), len(r.Shared), len(r.Allocs))
	}
	for _, c := range r.Stores {
		if c.File.Median() <= 0 || c.Bolt.Median() <= 0 {
			t.Errorf("%d callers have no figures: %+v", c.Callers, c)
		}
	}
	if l := r.Proxies.Latency; l.Idem.Median() <= 0 || l.Bare.Median() <= 0 || l.Sync.Median() <= 0 {
		t.Errorf("the latency has no figures: %+v", l)
	}
	written, err := os.ReadFile(filepath.Join(docs, "performance.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(written, []byte("fresh keys, file:")) || bytes.Contains(written, []byte("old figures")) || !bytes.HasSuffix(written, []byte("after\n")) {
		t.Errorf("the page became:\n%s", written)
	}
	if !strings.Contains(out.String(), "| no key |") {
		t.Errorf("the table printed is:\n%s", &out)
	}
	wellFormed(t, filepath.Join(docs, "performance.svg"))
}

func wellFormed(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := xml.NewDecoder(f)
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("the picture is no XML: %v", err)
		}
	}
}
