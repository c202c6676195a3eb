package pgstore_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/pgstore"
)

var update = flag.Bool("update", false, "write the golden rows anew")

const goldenRows = "testdata/format1.copy"

// golden is a key of the golden rows, with what it reads as at the time at
// which they were written.
type golden struct {
	id    string
	state driver.State
	make  func(t *testing.T, s store, ref driver.Ref)
	check func(rec driver.Record) bool
}

func goldens() []golden {
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c := completion("golden", "made")
	c.Tombstone = 24 * time.Hour
	resolve := func(action driver.Action) func(t *testing.T, s store, ref driver.Ref) {
		return func(t *testing.T, s store, ref driver.Ref) {
			if action == driver.ResolveErase {
				_, err := s.Complete(t.Context(), ref, c)
				must(t, err)
			} else {
				must(t, s.Abandon(t.Context(), ref))
			}
			_, err := s.Resolve(t.Context(), ref.Key, driver.Resolution{
				Action: action, Result: map[bool]driver.Result{true: c.Result}[action == driver.ResolveComplete],
				Retention: time.Hour, Tombstone: 24 * time.Hour, Note: "by hand",
			})
			must(t, err)
		}
	}
	noted := func(rec driver.Record) bool { return rec.Note == "by hand" && rec.Scope == "golden\x00\xff" }
	asked := func(rec driver.Record) bool {
		return rec.Fingerprint == driver.Fingerprint{Rule: 7, Sum: driver.KeyOf("golden", "asked")} && rec.Scope == "golden\x00\xff"
	}
	return []golden{
		{"in-flight", driver.StateInFlight, func(*testing.T, store, driver.Ref) {}, asked},
		{"lapsed", driver.StateUnknown, nil, asked},
		{"abandoned", driver.StateUnknown, func(t *testing.T, s store, ref driver.Ref) { must(t, s.Abandon(t.Context(), ref)) }, asked},
		{"completed", driver.StateCompleted, func(t *testing.T, s store, ref driver.Ref) {
			_, err := s.Complete(t.Context(), ref, c)
			must(t, err)
		}, func(rec driver.Record) bool {
			return string(rec.Result.Meta) == "200" && string(rec.Result.Body) == "made" && asked(rec) && rec.Left > 59*time.Minute
		}},
		{"dropped", driver.StateCompleted, func(t *testing.T, s store, ref driver.Ref) {
			_, err := s.Complete(t.Context(), ref, driver.Completion{Dropped: true, Retention: time.Hour, Tombstone: time.Hour})
			must(t, err)
		}, func(rec driver.Record) bool { return rec.Dropped && rec.Result.Size() == 0 }},
		{"erased", driver.StateForgotten, resolve(driver.ResolveErase), noted},
		{"completed by hand", driver.StateCompleted, resolve(driver.ResolveComplete), noted},
		{"released by hand", driver.StateAbsent, resolve(driver.ResolveRelease), func(rec driver.Record) bool { return rec.Note == "by hand" && rec.Attempt == 1 }},
		{"released", driver.StateAbsent, func(t *testing.T, s store, ref driver.Ref) {
			must(t, s.Release(t.Context(), ref, driver.Release{Answered: true, Retention: time.Hour}))
		}, func(rec driver.Record) bool { return rec.Attempt == 1 && rec.Answered }},
	}
}

// goldenColumns are what the rows hold, with their times as distances from the
// time at which they were written.
const goldenColumns = "token, %[1]ssince, %[1]sdue, tombstone, attempt, format, kind, rule, answered, dropped, late, watched, key, nonce, sum, scope, id, note, meta, body"

// Trap 60: rows that the first version wrote read as they did.
func TestTrap60GoldenRows(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	ctx := context.Background()
	const now = "(extract(epoch from now()) * 1000000)::bigint"
	if *update {
		s := b.open(t, pgstore.Options{})
		for _, g := range goldens() {
			req := driver.ClaimRequest{
				Key: driver.KeyOf("golden", g.id), Scope: "golden\x00\xff", ID: g.id, Nonce: driver.Nonce{1, 2, 3},
				Fingerprint: driver.Fingerprint{Rule: 7, Sum: driver.KeyOf("golden", "asked")},
				Lease:       time.Hour, Tombstone: 24 * time.Hour,
			}
			if g.make == nil {
				req.Lease = time.Microsecond
			}
			ref := grant(t, s, req)
			if g.make != nil {
				g.make(t, s, ref)
			}
		}
		records, _ := s.Tables()
		var out strings.Builder
		conn, err := b.pool.Acquire(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
		_, err = conn.Conn().PgConn().CopyTo(ctx, &out, fmt.Sprintf("COPY (SELECT token, since - %[2]s, due - %[2]s, tombstone, attempt, format, kind, rule, answered, dropped, late, watched, key, nonce, sum, scope, id, note, meta, body FROM %[1]s ORDER BY id) TO STDOUT", records, now))
		if err == nil {
			err = os.WriteFile(goldenRows, []byte(out.String()), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(goldenRows)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := b.open(t, pgstore.Options{})
	records, _ := s.Tables()
	conn, err := b.pool.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	_, err = conn.Conn().PgConn().CopyFrom(ctx, f, "COPY "+records+" ("+fmt.Sprintf(goldenColumns, "")+") FROM STDIN")
	if err == nil {
		_, err = conn.Exec(ctx, fmt.Sprintf("UPDATE %s SET since = since + %[2]s, due = due + %[2]s", records, now))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range goldens() {
		rec, err := s.Lookup(ctx, driver.KeyOf("golden", g.id))
		if err != nil || rec.State != g.state || rec.Token == 0 || rec.Attempt != 1 || !g.check(rec) {
			t.Errorf("%s: %+v, %v", g.id, rec, err)
		}
	}
	st, err := s.Stats(ctx)
	if err != nil || st.Completed != 3 || st.Unknown != 2 || st.InFlight != 1 || st.Forgotten != 1 {
		t.Errorf("counted %+v: %v", st, err)
	}
}

// Trap 60: a row that cannot be read refuses its key, whatever is asked, and is
// neither taken for absent nor swept.
func TestTrap60RowsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	ctx := context.Background()
	schema := b.schema(t)
	stores := map[string]store{"pgx": b.openIn(t, pgstore.Options{Schema: schema})}
	db, err := pgstore.NewDB(ctx, b.sql, defaults(pgstore.Options{Schema: schema}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	stores["sql"] = db
	long := "due = 0, tombstone = 0, " // over since long ago, if it could be read
	for name, set := range map[string]string{
		"a newer format":        long + "format = 2",
		"a newer tombstone":     long + "format = 2, kind = 5",
		"an older format":       long + "format = 0",
		"a kind of the future":  long + "kind = 8",
		"no kind":               long + "kind = 0",
		"a nonce too short":     "nonce = '\\x01'",
		"a sum too long":        "sum = sum || '\\x01'::bytea",
		"a rule that is none":   "rule = 256",
		"a token that is none":  "token = 0",
		"attempts less than 0":  "attempt = -1",
		"a tombstone of less 0": "tombstone = -1",
	} {
		for kind, s := range stores {
			id := name + " " + kind
			req := request(id)
			req.Retry = true
			ref := grant(t, s, req)
			records, _ := s.Tables()
			if _, err := b.pool.Exec(ctx, "UPDATE "+records+" SET "+set+" WHERE key = $1", ref.Key[:]); err != nil {
				t.Fatal(err)
			}
			if name == "a token that is none" {
				ref.Token = 0
			}
			other := request(id)
			other.Retry = true
			calls := map[string]func() error{
				"Lookup": func() error { _, err := s.Lookup(ctx, ref.Key); return err },
				"Claim":  func() error { _, err := s.Claim(ctx, other); return err },
				"Resolve": func() error {
					_, err := s.Resolve(ctx, ref.Key, driver.Resolution{Action: driver.ResolveRelease, Force: true, Retention: time.Hour, Tombstone: time.Hour})
					return err
				},
			}
			if strings.Contains(set, "format") || strings.Contains(set, "kind") {
				calls["Renew"] = func() error { return s.Renew(ctx, ref, time.Hour) }
				calls["Complete"] = func() error { _, err := s.Complete(ctx, ref, completion(id, "r")); return err }
				calls["Release"] = func() error { return s.Release(ctx, ref, driver.Release{Retention: time.Hour}) }
				calls["Abandon"] = func() error { return s.Abandon(ctx, ref) }
			}
			for call, f := range calls {
				var unreadable *driver.UnreadableError
				if err := f(); !errors.As(err, &unreadable) || unreadable.Key != ref.Key || unreadable.Reason == "" {
					t.Errorf("%s of %s: %v", call, id, err)
				}
			}
			if _, err := s.Sweep(ctx, 1000); err != nil {
				t.Error(err)
			}
			var n int
			if err := b.pool.QueryRow(ctx, "SELECT count(*) FROM "+records+" WHERE key = $1", ref.Key[:]).Scan(&n); err != nil || n != 1 {
				t.Errorf("%s: %d rows after a sweep: %v", id, n, err)
			}
		}
	}
	// Many at once: those of others are granted.
	s := stores["pgx"]
	bad := driver.KeyOf("scope", "a newer format pgx")
	all(64, func(i int) {
		req := request(fmt.Sprint("good ", i))
		if i%8 == 0 {
			req = request("a newer format pgx")
		}
		reply, err := s.Claim(ctx, req)
		var unreadable *driver.UnreadableError
		if req.Key == bad && !errors.As(err, &unreadable) || req.Key != bad && (err != nil || !reply.Granted) {
			t.Errorf("%s: granted %v, %v", req.ID, reply.Granted, err)
		}
	})
}
