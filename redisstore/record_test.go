package redisstore_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/redisstore"
)

// FuzzDecode: whatever is in the place of a record, it is read or refused.
func FuzzDecode(f *testing.F) {
	b, err := os.ReadFile(goldenFile)
	if err != nil {
		f.Fatal(err)
	}
	var all []goldenRecord
	if err := json.Unmarshal(b, &all); err != nil {
		f.Fatal(err)
	}
	for _, g := range all {
		v, err := hex.DecodeString(g.Record)
		if err != nil || redisstore.Decode(v, false) != nil {
			f.Fatalf("%s: %v", g.Name, err)
		}
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v []byte) {
		whole := redisstore.Decode(v, false)
		for n := range min(len(v), 200) {
			if redisstore.Decode(v[:n], true) == nil && whole == nil && redisstore.Decode(v, true) != nil {
				t.Errorf("its first %d bytes are enough, and all are not", n)
			}
		}
	})
}

// Names and notes may be longer than what a list reads at first, and results are
// not read at all.
func TestListReadsLongNames(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	s := newBed(t, connect(t, server.DSN()), small())
	for i := range 30 {
		req := request(fmt.Sprint(i))
		req.Scope, req.ID = strings.Repeat("s\x00", driver.MaxName/2), strings.Repeat(fmt.Sprint(i%10), driver.MaxName)
		ref := grant(t, s, req)
		c := completion(req, strings.Repeat("x", 9000))
		complete(t, s, ref, c)
		if i%3 == 0 {
			_, err := s.Resolve(t.Context(), req.Key, driver.Resolution{
				Action: driver.ResolveErase, Retention: time.Hour, Tombstone: time.Hour, Note: strings.Repeat("n", 100_000),
			})
			must(t, err)
		}
	}
	seen := map[driver.Key]bool{}
	for q := (driver.Query{Limit: 7, Scope: strings.Repeat("s\x00", driver.MaxName/2)}); ; {
		page, err := s.List(t.Context(), q)
		must(t, err)
		for _, rec := range page.Records {
			if seen[rec.Key] || len(rec.ID) != driver.MaxName || rec.Result.Size() != 0 || (rec.State == driver.StateForgotten) != (len(rec.Note) == 100_000) {
				t.Errorf("listed %v: %d bytes of ID, %d of a note", rec.State, len(rec.ID), len(rec.Note))
			}
			seen[rec.Key] = true
		}
		if q.After = page.Next; q.After == "" {
			break
		}
	}
	if len(seen) != 30 {
		t.Errorf("%d records are listed", len(seen))
	}
	// A tombstone with a note keeps it, and its name, when it is settled later.
	advance(t, s, 90*time.Minute)
	_, err := s.Sweep(t.Context(), 1000)
	must(t, err)
	st, err := s.Stats(t.Context())
	must(t, err)
	if st.Forgotten != 20 {
		t.Errorf("counted %+v", st)
	}
}

// A page's cursor from nowhere is refused.
func TestListCursors(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	o := small()
	o.Partitions = 1
	s := newBed(t, connect(t, server.DSN()), o)
	for _, after := range []string{"x", "1", "1.", "1.zz", "-1." + driver.Key{}.String(), "1." + driver.Key{}.String() + "00"} {
		_, err := s.List(t.Context(), driver.Query{After: after, Limit: 1})
		wantErr(t, err, driver.ErrInvalid, "List after "+after)
	}
	// The record that a page ended with has gone meanwhile: the list goes on behind
	// its place.
	for i := range 40 {
		req := request(fmt.Sprint(i))
		complete(t, s, grant(t, s, req), completion(req, "r"))
	}
	page, err := s.List(t.Context(), driver.Query{Limit: 10, States: []driver.State{driver.StateCompleted}})
	must(t, err)
	last := page.Records[9].Key
	do(t, s.client, "DEL", recordKey(s, last))
	do(t, s.client, "ZREM", indexKey(s, last), string(last[:]))
	seen := map[driver.Key]bool{}
	for _, rec := range page.Records {
		seen[rec.Key] = true
	}
	for page.Next != "" {
		page, err = s.List(t.Context(), driver.Query{Limit: 10, After: page.Next, States: []driver.State{driver.StateCompleted}})
		must(t, err)
		for _, rec := range page.Records {
			seen[rec.Key] = true
		}
	}
	if len(seen) != 40 {
		t.Errorf("%d records were listed", len(seen))
	}
}

// Note that a late completion keeps what an operator has noted.
func TestANoteOutlivesALateCompletion(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	s := newBed(t, connect(t, server.DSN()), small())
	req := request("k")
	ref := grant(t, s, req)
	_, err := s.Resolve(t.Context(), req.Key, driver.Resolution{
		Action: driver.ResolveRelease, Force: true, Retention: time.Hour, Tombstone: time.Hour, Note: "it seemed dead",
	})
	must(t, err)
	if rec := state(t, s, req.Key, driver.StateAbsent); rec.Note != "it seemed dead" || rec.ID != "k" {
		t.Errorf("%+v", rec)
	}
	late, err := s.Complete(t.Context(), ref, completion(req, "done"))
	must(t, err)
	rec := state(t, s, req.Key, driver.StateCompleted)
	if !late || rec.Note != "it seemed dead" || string(rec.Result.Body) != "done" || rec.Fingerprint != req.Fingerprint {
		t.Errorf("late %v, %+v", late, rec)
	}
	again, err := s.Complete(t.Context(), ref, completion(req, "done"))
	must(t, err)
	if !again {
		t.Error("the repeat is not late")
	}
	_, err = s.Complete(t.Context(), ref, completion(req, "done otherwise"))
	wantErr(t, err, driver.ErrCompleted, "Complete")
	advance(t, s, time.Hour)
	_, err = s.Sweep(t.Context(), 10)
	must(t, err)
	if rec := state(t, s, req.Key, driver.StateForgotten); rec.Note != "it seemed dead" || rec.ID != "k" || rec.Scope != "scope" {
		t.Errorf("%+v", rec)
	}
}

// The claim's own names and fingerprint stay, whatever its owner completes with.
func TestTheClaimsNamesStay(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	s := newBed(t, connect(t, server.DSN()), small())
	for _, named := range []bool{true, false} {
		req := request(fmt.Sprint(named))
		if !named {
			req.Scope, req.ID = "", ""
		}
		ref := grant(t, s, req)
		c := completion(req, "r")
		c.Scope, c.ID, c.Fingerprint = "another", "one", driver.Fingerprint{Rule: 9}
		complete(t, s, ref, c)
		rec := state(t, s, req.Key, driver.StateCompleted)
		if rec.Scope != req.Scope || rec.ID != req.ID || rec.Fingerprint != req.Fingerprint || string(rec.Result.Body) != "r" || string(rec.Result.Meta) != "200" {
			t.Errorf("%+v", rec)
		}
		complete(t, s, ref, c)
	}
}
