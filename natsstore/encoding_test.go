package natsstore_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/natsstore"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden is a stored record, and its file.
type golden struct {
	name   string
	view   driver.Record
	stored natsstore.Stored
	rev    uint64
}

func goldenRecords() []golden {
	nonce := driver.Nonce{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	sum := driver.Fingerprint{Rule: 1, Sum: driver.KeyOf("golden", "asked")}
	const at = 1_760_000_000_000_000_000
	return []golden{
		{"granted", driver.Record{State: driver.StateInFlight, Attempt: 1, Scope: "host/tenant", ID: "k\x00\xff", Fingerprint: sum},
			natsstore.Stored{Kind: 1, Since: at, Lease: time.Minute, Tombstone: time.Hour, Nonce: nonce}, 77},
		{"renewed", driver.Record{State: driver.StateInFlight, Token: 5, Attempt: 3, Scope: "s", ID: "i", Fingerprint: sum},
			natsstore.Stored{Kind: 1, Since: at, Lease: time.Minute, Tombstone: time.Hour, Nonce: nonce}, 77},
		{"lapsed", driver.Record{State: driver.StateUnknown, Token: 5, Attempt: 1, Scope: "s", ID: "i", Fingerprint: sum},
			natsstore.Stored{Kind: 2, Since: at, Due: at + 1, Tombstone: time.Hour, Nonce: nonce}, 77},
		{"abandoned", driver.Record{State: driver.StateUnknown, Token: 5, Attempt: 1, Scope: "s", ID: "i", Fingerprint: sum},
			natsstore.Stored{Kind: 3, Since: at, Due: at + 1, Tombstone: time.Hour}, 77},
		{"completed", driver.Record{State: driver.StateCompleted, Token: 5, Attempt: 1, Scope: "s", ID: "i", Fingerprint: sum,
			Result: driver.Result{Meta: []byte("201"), Body: []byte("made\r\n\x00")}},
			natsstore.Stored{Kind: 4, Since: at, Due: at + 1, Tombstone: time.Hour, Late: true}, 77},
		{"dropped", driver.Record{State: driver.StateCompleted, Token: 5, Attempt: 1, Dropped: true},
			natsstore.Stored{Kind: 4, Since: at, Due: at + 1, Tombstone: time.Hour}, 77},
		{"forgotten", driver.Record{State: driver.StateForgotten, Token: 5, Attempt: 1, Scope: "s", ID: "i", Note: "on request"},
			natsstore.Stored{Kind: 5, Since: at, Due: 1<<63 - 1}, 77},
		{"released", driver.Record{State: driver.StateAbsent, Token: 5, Attempt: 2, Answered: true},
			natsstore.Stored{Kind: 6, Due: at, Nonce: nonce}, 77},
		{"released-by-resolve", driver.Record{State: driver.StateAbsent, Token: 5, Attempt: 2, Scope: "s", ID: "i", Note: "nothing done"},
			natsstore.Stored{Kind: 7, Due: at}, 77},
	}
}

// Trap 60: what the first version stored reads as it did, and is stored as it was.
func TestTrap60GoldenRecords(t *testing.T) {
	for _, g := range goldenRecords() {
		t.Run(g.name, func(t *testing.T) {
			file := filepath.Join("testdata", "format1", g.name)
			header, data := natsstore.Encode(g.view, g.stored)
			message := header + "\n" + string(data)
			if *update {
				if err := os.WriteFile(file, []byte(message), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if string(b) != message {
				t.Errorf("it is stored as %q now; it was %q", message, b)
			}
			header, body, _ := strings.Cut(string(b), "\n")
			view, stored, err := natsstore.Decode(header, []byte(body), g.rev)
			if err != nil {
				t.Fatal(err)
			}
			want := g.view
			if want.Token == 0 {
				want.Token = g.rev
			}
			if !reflect.DeepEqual(view, want) || stored != g.stored {
				t.Errorf("it reads\n%+v %+v, it should\n%+v %+v", view, stored, want, g.stored)
			}
		})
	}
}

// What cannot be read is refused, and never absent: a byte that is missing or
// has changed its meaning, another version, another state, no header.
func TestTrap60WhatCannotBeRead(t *testing.T) {
	for _, g := range goldenRecords() {
		header, data := natsstore.Encode(g.view, g.stored)
		bad := map[string]string{
			"version 2":    "2" + header[1:],
			"no version":   header[2:],
			"empty":        "",
			"a byte less":  header[:len(header)-4],
			"a byte more":  header + "AAAA",
			"not base64":   header[:5] + "!" + header[6:],
			"an odd flag":  header[:3] + "_" + header[4:],
			"only version": "1.",
		}
		for _, k := range []byte{0, 8, 200} {
			other := g.stored
			other.Kind = k
			bad[fmt.Sprint("state ", k)], _ = natsstore.Encode(g.view, other)
		}
		for what, h := range bad {
			if _, _, err := natsstore.Decode(h, data, g.rev); err == nil {
				t.Errorf("%s with %s can be read", g.name, what)
			}
		}
		if _, _, err := natsstore.Decode(header, data, 4); g.view.Token > 4 && err == nil {
			t.Errorf("%s has a token that was not given out yet, and can be read", g.name)
		}
		if g.view.State != driver.StateCompleted {
			if _, _, err := natsstore.Decode(header, []byte("x"), g.rev); err == nil {
				t.Errorf("%s with a result can be read", g.name)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, g := range goldenRecords() {
		header, data := natsstore.Encode(g.view, g.stored)
		f.Add(header, data)
	}
	f.Fuzz(func(t *testing.T, header string, data []byte) {
		view, stored, err := natsstore.Decode(header, data, 100)
		if err != nil {
			return
		}
		again, _ := natsstore.Encode(view, stored)
		if v, s, err := natsstore.Decode(again, data, 100); err != nil || !reflect.DeepEqual(v, view) || s != stored {
			t.Errorf("%q reads as %+v, and then as %+v: %v", header, view, v, err)
		}
	})
}

// A record that cannot be read refuses its key in every call, is left out of
// lists, and stays where it is.
func TestUnreadable(t *testing.T) {
	b := newBed(t, quiet())
	messages := map[string]*nats.Msg{
		"deleted by hand": {Header: nats.Header{"KV-Operation": {"DEL"}}},
		"plain":           {Data: []byte("x")},
		"newer":           {Header: nats.Header{"Idem": {"2.AAAA"}}},
		"garbled":         {Header: nats.Header{"Idem": {"1.AQ"}}},
	}
	for name, m := range messages {
		req := request(name)
		m.Subject = "$KV." + b.opts.Bucket + ".r." + req.Key.String()
		if _, err := b.nc.RequestMsg(m, 5*time.Second); err != nil {
			t.Fatal(err)
		}
		ref := driver.Ref{Key: req.Key, Token: 1}
		calls := map[string]func(ctx context.Context) error{
			"Claim":    func(ctx context.Context) error { _, err := b.Claim(ctx, req); return err },
			"Renew":    func(ctx context.Context) error { return b.Renew(ctx, ref, time.Minute) },
			"Complete": func(ctx context.Context) error { _, err := b.Complete(ctx, ref, completion(req, "x")); return err },
			"Release":  func(ctx context.Context) error { return b.Release(ctx, ref, driver.Release{Retention: time.Hour}) },
			"Abandon":  func(ctx context.Context) error { return b.Abandon(ctx, ref) },
			"Lookup":   func(ctx context.Context) error { _, err := b.Lookup(ctx, req.Key); return err },
			"Resolve": func(ctx context.Context) error {
				_, err := b.Resolve(ctx, req.Key, driver.Resolution{Action: driver.ResolveRelease, Force: true, Retention: time.Hour, Tombstone: time.Hour})
				return err
			},
		}
		for call, f := range calls {
			var unreadable *driver.UnreadableError
			if err := f(t.Context()); !errors.As(err, &unreadable) || unreadable.Key != req.Key {
				t.Errorf("%s of what is %s: %v", call, name, err)
			}
		}
		wantErr(t, b.Wait(t.Context(), ref), nil, "Wait")
	}
	if n, err := b.Sweep(t.Context(), 100); n != 0 || err != nil {
		t.Errorf("Sweep: %d, %v", n, err)
	}
	page, err := b.List(t.Context(), driver.Query{Limit: 100})
	if err != nil || len(page.Records) != 0 {
		t.Errorf("List: %d records, %v", len(page.Records), err)
	}
	// Others are not refused.
	for i := range 3 {
		complete(t, b, grant(t, b, request(fmt.Sprint(i))), completion(request(fmt.Sprint(i)), "r"))
	}
}
