package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem/cmd/idem/internal/admin"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/memstore"
)

// desk is an admin interface on a real socket, over a store that the test fills.
type desk struct {
	t     *testing.T
	store *memstore.Store
	url   string
	log   *bytes.Buffer
}

func newDesk(t *testing.T, opts *admin.Options) *desk {
	t.Helper()
	d := &desk{t: t, store: memstore.New(nil), log: new(bytes.Buffer)}
	if opts == nil {
		opts = &admin.Options{}
	}
	opts.Logger = slog.New(slog.NewTextHandler(d.log, nil))
	srv := httptest.NewServer(admin.New(d.store, opts))
	t.Cleanup(srv.Close)
	d.url = srv.URL
	return d
}

// claim puts a record in flight.
func (d *desk) claim(scope, id string) driver.Ref {
	d.t.Helper()
	key := driver.KeyOf(scope, id)
	reply, err := d.store.Claim(context.Background(), driver.ClaimRequest{
		Key: key, Scope: scope, ID: id, Nonce: driver.NewNonce(), Lease: time.Hour, Tombstone: time.Hour,
		Fingerprint: driver.Fingerprint{Rule: 1, Sum: [32]byte{1}},
	})
	if err != nil || !reply.Granted {
		d.t.Fatalf("claim of %q %q: %+v %v", scope, id, reply, err)
	}
	return driver.Ref{Key: key, Token: reply.Record.Token}
}

// unknown puts a record whose outcome is unknown.
func (d *desk) unknown(scope, id string) driver.Ref {
	d.t.Helper()
	ref := d.claim(scope, id)
	if err := d.store.Abandon(context.Background(), ref); err != nil {
		d.t.Fatal(err)
	}
	return ref
}

// completed puts a record with a result.
func (d *desk) completed(scope, id string, res driver.Result) {
	d.t.Helper()
	ref := d.claim(scope, id)
	_, err := d.store.Complete(context.Background(), ref, driver.Completion{Result: res, Scope: scope, ID: id, Retention: time.Hour, Tombstone: time.Hour})
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) lookup(scope, id string) driver.Record {
	d.t.Helper()
	rec, err := d.store.Lookup(context.Background(), driver.KeyOf(scope, id))
	if err != nil {
		d.t.Fatal(err)
	}
	return rec
}

type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends a request whose path goes out as it is given.
func (d *desk) ask(method, path, body string, change ...func(*http.Request)) answer {
	d.t.Helper()
	req, err := http.NewRequest(method, d.url+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, f := range change {
		f(req)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, string(b)}
}

// want checks the status, and that a refusal is a problem with a sentence.
func (d *desk) want(a answer, status int) answer {
	d.t.Helper()
	if a.status != status {
		d.t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	if status >= 400 {
		var p struct {
			Status int    `json:"status"`
			Detail string `json:"detail"`
		}
		if ct := a.header.Get("Content-Type"); ct != "application/problem+json" {
			d.t.Errorf("a refusal has the type %q", ct)
		}
		if err := json.Unmarshal([]byte(a.body), &p); err != nil || p.Status != status || !strings.HasSuffix(p.Detail, ".") {
			d.t.Errorf("the refusal is no problem with a sentence: %v %s", err, a.body)
		}
	}
	return a
}

type shown struct {
	Scope    string
	Key      string
	Path     string
	Hash     string
	State    string
	Token    uint64
	Attempt  int
	Age      *float64 `json:"age_seconds"`
	Left     *float64 `json:"left_seconds"`
	Dropped  *bool
	Note     *string
	Response *struct {
		Status  int
		Headers http.Header
		Body    []byte
	}
	Result *struct{ Meta, Body []byte }
}

func decodeInto[T any](t *testing.T, a answer) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	return v
}
