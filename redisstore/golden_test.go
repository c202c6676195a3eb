package redisstore_test

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
)

var update = flag.Bool("update", false, "write the golden files anew")

const goldenFile = "testdata/format1.json"

// goldenRecord is a record as the first version wrote it, with its place in the
// index, and what it reads as at the time it was written.
type goldenRecord struct {
	Name   string
	Key    string
	Record string
	Score  string
	// Since is the server's time when it was read, in microseconds.
	At    int64
	Reads driver.Record
}

func goldenSteps() []struct {
	name string
	make func(t *testing.T, s *bed, req driver.ClaimRequest, ref driver.Ref)
} {
	resolve := func(a driver.Action, note string) func(*testing.T, *bed, driver.ClaimRequest, driver.Ref) {
		return func(t *testing.T, s *bed, req driver.ClaimRequest, ref driver.Ref) {
			if a == driver.ResolveErase {
				complete(t, s, ref, completion(req, "made"))
			} else {
				must(t, s.Abandon(t.Context(), ref))
			}
			_, err := s.Resolve(t.Context(), ref.Key, driver.Resolution{
				Action: a, Retention: time.Hour, Tombstone: 24 * time.Hour, Note: note,
				Result: map[driver.Action]driver.Result{driver.ResolveComplete: {Body: []byte("found out")}}[a],
			})
			must(t, err)
		}
	}
	return []struct {
		name string
		make func(t *testing.T, s *bed, req driver.ClaimRequest, ref driver.Ref)
	}{
		{"in-flight", func(*testing.T, *bed, driver.ClaimRequest, driver.Ref) {}},
		{"abandoned", func(t *testing.T, s *bed, _ driver.ClaimRequest, ref driver.Ref) {
			must(t, s.Abandon(t.Context(), ref))
		}},
		{"completed", func(t *testing.T, s *bed, req driver.ClaimRequest, ref driver.Ref) {
			complete(t, s, ref, completion(req, "made\x00\xff"))
		}},
		{"late", func(t *testing.T, s *bed, req driver.ClaimRequest, ref driver.Ref) {
			must(t, s.Abandon(t.Context(), ref))
			complete(t, s, ref, completion(req, "late"))
		}},
		{"dropped", func(t *testing.T, s *bed, req driver.ClaimRequest, ref driver.Ref) {
			c := completion(req, "")
			c.Result, c.Dropped = driver.Result{}, true
			complete(t, s, ref, c)
		}},
		{"released", func(t *testing.T, s *bed, _ driver.ClaimRequest, ref driver.Ref) {
			must(t, s.Release(t.Context(), ref, driver.Release{Answered: true, Retention: time.Hour}))
		}},
		{"resolved", resolve(driver.ResolveComplete, "asked the bank")},
		{"released by an operator", resolve(driver.ResolveRelease, "it was not done")},
		{"erased", resolve(driver.ResolveErase, "")},
		{"erased on request", resolve(driver.ResolveErase, "on request")},
		{"resolved and done after all", func(t *testing.T, s *bed, req driver.ClaimRequest, ref driver.Ref) {
			resolve(driver.ResolveRelease, "it was not done")(t, s, req, ref)
			complete(t, s, ref, completion(req, "done after all"))
		}},
	}
}

// Trap 60: what the first version wrote reads as it did then, is settled as it
// should be, and its keys go on.
func TestTrap60GoldenRecords(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	s := newBed(t, connect(t, server.DSN()), small())
	if *update {
		var all []goldenRecord
		for _, st := range goldenSteps() {
			req := request("golden " + st.name)
			req.Nonce = driver.Nonce{1, 2, 3}
			st.make(t, s, req, grant(t, s, req))
			key := recordKey(s, req.Key)
			v, err := do(t, s.client, "GET", key).ToString()
			must(t, err)
			score, err := do(t, s.client, "ZSCORE", indexKey(s, req.Key), string(req.Key[:])).AsFloat64()
			must(t, err)
			rec, err := s.Lookup(t.Context(), req.Key)
			must(t, err)
			now, err := do(t, s.client, "TIME").AsStrSlice()
			must(t, err)
			sec, _ := strconv.ParseInt(now[0], 10, 64)
			us, _ := strconv.ParseInt(now[1], 10, 64)
			all = append(all, goldenRecord{
				Name: st.name, Key: req.Key.String(), Record: hex.EncodeToString([]byte(v)),
				Score: strconv.FormatFloat(score, 'f', 0, 64), At: sec*1e6 + us, Reads: rec,
			})
		}
		b, err := json.MarshalIndent(all, "", "\t")
		must(t, err)
		must(t, os.WriteFile(goldenFile, append(b, '\n'), 0o600))
	}
	b, err := os.ReadFile(goldenFile)
	must(t, err)
	var all []goldenRecord
	must(t, json.Unmarshal(b, &all))
	if len(all) != len(goldenSteps()) {
		t.Errorf("%d golden records", len(all))
	}
	fresh := newBed(t, s.client, s.opts)
	for _, g := range all {
		t.Run(g.Name, func(t *testing.T) {
			var key driver.Key
			raw, err := hex.DecodeString(g.Key)
			must(t, err)
			copy(key[:], raw)
			v, err := hex.DecodeString(g.Record)
			must(t, err)
			do(t, s.client, "SET", recordKey(fresh, key), string(v))
			do(t, s.client, "ZADD", indexKey(fresh, key), g.Score, string(key[:]))
			// The record is as old as the file; here it is as it was then.
			must(t, fresh.ShiftOne(t.Context(), key, g.At))
			rec, err := fresh.Lookup(t.Context(), key)
			must(t, err)
			if d := (rec.Left - g.Reads.Left).Abs() + (rec.Age - g.Reads.Age).Abs(); d > 20*time.Second && rec.State != driver.StateAbsent {
				t.Errorf("left is %v, the age %v; they were %v and %v", rec.Left, rec.Age, g.Reads.Left, g.Reads.Age)
			}
			rec.Left, rec.Age, g.Reads.Left, g.Reads.Age = 0, 0, 0, 0
			if fmt.Sprintf("%+v", rec) != fmt.Sprintf("%+v", g.Reads) {
				t.Errorf("it reads as\n\t%+v\nand did as\n\t%+v", rec, g.Reads)
			}
			ref := driver.Ref{Key: key, Token: rec.Token}
			err = fresh.Renew(t.Context(), ref, time.Hour)
			want := map[driver.State]error{driver.StateUnknown: driver.ErrLapsed, driver.StateCompleted: driver.ErrCompleted, driver.StateForgotten: driver.ErrCompleted, driver.StateAbsent: driver.ErrLost}[rec.State]
			wantErr(t, err, want, "Renew")
		})
	}
	st, err := fresh.Stats(t.Context())
	must(t, err)
	if st.InFlight != 1 || st.Unknown != 1 || st.Completed != 5 || st.Forgotten != 2 {
		t.Errorf("counted %+v", st)
	}
	advance(t, fresh, 100*time.Hour)
	_, err = fresh.Sweep(t.Context(), 1000)
	must(t, err)
	for _, g := range all {
		raw, _ := hex.DecodeString(g.Key)
		state(t, fresh, driver.Key(raw), driver.StateAbsent)
	}
}

// A record that cannot be read refuses its key in every call, is never taken for
// absent, stays as it is, and hides no other.
func TestUnreadableRecords(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	s := newBed(t, connect(t, server.DSN()), small())
	good := request("good")
	grant(t, s, good)
	made := request("made")
	ref := grant(t, s, made)
	complete(t, s, ref, completion(made, "r"))
	done, err := do(t, s.client, "GET", recordKey(s, made.Key)).ToString()
	must(t, err)
	claimed, err := do(t, s.client, "GET", recordKey(s, good.Key)).ToString()
	must(t, err)
	with := func(v string, at int, b byte) string { return v[:at] + string([]byte{b}) + v[at+1:] }
	for name, v := range map[string]string{
		"a newer version": with(done, 0, 2), "no version": with(done, 0, 0), "nothing but a version": "\x01", "some text": "hello",
		"an unknown kind": with(done, 1, 8), "kind 0": with(done, 1, 0), "a kind that is not stored": with(done, 1, 2),
		"half a head": done[:20], "a head alone": done[:40], "cut in its names": done[:80], "cut in its meta": done[:len(done)-3],
		"a claim of an unknown kind": with(claimed, 1, 8), "an unknown flag": with(done, 2, 0x80), "an unknown part": with(done, 39, 0x20), "a time beyond all": with(done, 15, 0x7f),
		"a time before all": with(done, 7, 0xff), "more than its length": claimed + "x", "a claim without its nonce": with(claimed, 39, 4),
	} {
		t.Run(name, func(t *testing.T) {
			req := request(name)
			key := recordKey(s, req.Key)
			do(t, s.client, "SET", key, v)
			do(t, s.client, "ZADD", indexKey(s, req.Key), "20000000000001", string(req.Key[:]))
			var bad *driver.UnreadableError
			check := func(call string, err error) {
				t.Helper()
				if !errors.As(err, &bad) || bad.Key != req.Key {
					t.Errorf("%s: %v", call, err)
				}
			}
			_, err := s.Lookup(t.Context(), req.Key)
			check("Lookup", err)
			retry := req
			retry.Retry = true
			_, err = s.Claim(t.Context(), retry)
			check("Claim", err)
			if v[0] != 1 || len(v) < 40 || v[1] == 8 || v[1] == 0 || v[1] == 2 {
				// Where the head is whole the token is read from it.
				mine := driver.Ref{Key: req.Key}
				if len(v) >= 31 {
					mine.Token = binary.BigEndian.Uint64([]byte(v[23:31]))
				}
				check("Renew", s.Renew(t.Context(), mine, time.Hour))
				check("Release", s.Release(t.Context(), mine, driver.Release{Retention: time.Hour}))
				check("Abandon", s.Abandon(t.Context(), mine))
				_, err = s.Complete(t.Context(), mine, completion(req, "other"))
				check("Complete", err)
				_, err = s.Resolve(t.Context(), req.Key, driver.Resolution{Action: driver.ResolveErase, Retention: time.Hour, Tombstone: time.Hour})
				check("Resolve", err)
				// A sweep leaves it, and goes on to others.
				_, err = s.Sweep(t.Context(), 100)
				must(t, err)
				now, err := do(t, s.client, "GET", key).ToString()
				must(t, err)
				if now != v {
					t.Errorf("it has become %q", now)
				}
			}
			_, err = s.List(t.Context(), driver.Query{Limit: 100})
			must(t, err)
			do(t, s.client, "DEL", key)
			do(t, s.client, "ZREM", indexKey(s, req.Key), string(req.Key[:]))
		})
	}
	req := request("a list")
	do(t, s.client, "RPUSH", recordKey(s, req.Key), "x")
	var bad *driver.UnreadableError
	if _, err := s.Claim(t.Context(), req); !errors.As(err, &bad) {
		t.Errorf("Claim of a key of another type: %v", err)
	}
	if _, err := s.Lookup(t.Context(), req.Key); !errors.As(err, &bad) {
		t.Errorf("Lookup of a key of another type: %v", err)
	}
}
