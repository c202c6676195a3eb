package sqlitestore_test

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/sqlitestore"
)

var update = flag.Bool("update", false, "write the golden file anew; only for a format that no release has written yet")

const goldenFile = "testdata/format1.sql"

// goldenKey is a key of the golden database, and what it reads as at the time at
// which it was written.
type goldenKey struct {
	id    string
	state driver.State
	make  func(t *testing.T, b *bed, ref driver.Ref)
	check func(rec driver.Record) bool
}

func goldenKeys() []goldenKey {
	c := completion("made")
	c.Result.Meta = []byte("201")
	resolve := func(t *testing.T, b *bed, ref driver.Ref, a driver.Action) {
		r := driver.Resolution{Action: a, Retention: retention, Tombstone: tombstone, Note: "on request"}
		if a == driver.ResolveComplete {
			r.Result = c.Result
		}
		_, err := b.Resolve(t.Context(), ref.Key, r)
		must(t, err)
	}
	made := func(t *testing.T, b *bed, ref driver.Ref) {
		_, err := b.Complete(t.Context(), ref, c)
		must(t, err)
	}
	return []goldenKey{
		{"in flight", driver.StateInFlight, func(*testing.T, *bed, driver.Ref) {}, func(rec driver.Record) bool {
			return rec.Left == lease && rec.Fingerprint == request("").Fingerprint && rec.Scope == "scope" && rec.ID == "in flight"
		}},
		{"completed", driver.StateCompleted, made, func(rec driver.Record) bool {
			return string(rec.Result.Meta) == "201" && string(rec.Result.Body) == "made" && rec.Left == retention
		}},
		{"dropped", driver.StateCompleted, func(t *testing.T, b *bed, ref driver.Ref) {
			_, err := b.Complete(t.Context(), ref, driver.Completion{Dropped: true, Retention: retention, Tombstone: tombstone})
			must(t, err)
		}, func(rec driver.Record) bool { return rec.Dropped && rec.Result.Size() == 0 }},
		{"abandoned", driver.StateUnknown, func(t *testing.T, b *bed, ref driver.Ref) {
			must(t, b.Abandon(t.Context(), ref))
		}, func(rec driver.Record) bool { return rec.Left == tombstone }},
		{"erased", driver.StateForgotten, func(t *testing.T, b *bed, ref driver.Ref) {
			made(t, b, ref)
			resolve(t, b, ref, driver.ResolveErase)
		}, func(rec driver.Record) bool { return rec.Note == "on request" && rec.Left == tombstone }},
		{"resolved", driver.StateCompleted, func(t *testing.T, b *bed, ref driver.Ref) {
			must(t, b.Abandon(t.Context(), ref))
			resolve(t, b, ref, driver.ResolveComplete)
		}, func(rec driver.Record) bool { return rec.Note == "on request" && string(rec.Result.Body) == "made" }},
		{"released", driver.StateAbsent, func(t *testing.T, b *bed, ref driver.Ref) {
			must(t, b.Release(t.Context(), ref, driver.Release{Answered: true, Retention: retention}))
		}, func(rec driver.Record) bool { return rec.Attempt == 1 && rec.Answered }},
		{"released by an operator", driver.StateAbsent, func(t *testing.T, b *bed, ref driver.Ref) {
			must(t, b.Abandon(t.Context(), ref))
			resolve(t, b, ref, driver.ResolveRelease)
		}, func(rec driver.Record) bool { return rec.Attempt == 1 && rec.Note == "on request" && !rec.Answered }},
	}
}

// Trap 60: a database that the first version wrote reads as it did.
func TestTrap60AGoldenDatabase(t *testing.T) {
	if *update {
		b := newBed(t, small())
		for _, k := range goldenKeys() {
			req := request(k.id)
			req.Nonce = driver.Nonce{1}
			k.make(t, b, grant(t, b, req))
		}
		must(t, os.MkdirAll("testdata", 0o755))
		must(t, os.WriteFile(goldenFile, []byte(dump(t, b.DB())), 0o644))
	}
	text, err := os.ReadFile(goldenFile)
	must(t, err)
	b := &bed{file: filepath.Join(t.TempDir(), "app.db"), clock: sqlitestore.NewTestClock(), opts: small()}
	must(t, execute(open(t, b.file, quick), string(text)))
	b.open(t) // which migrates to the newest version
	for _, k := range goldenKeys() {
		rec := state(t, b, k.id, k.state)
		if rec.Token == 0 || rec.Attempt != 1 || !k.check(rec) {
			t.Errorf("%s: %+v", k.id, rec)
		}
	}
	st, err := b.Stats(t.Context())
	if err != nil || st != (driver.Stats{InFlight: 1, Completed: 3, Unknown: 1, Forgotten: 1}) {
		t.Errorf("counted %+v, %v", st, err)
	}
	before := state(t, b, "in flight", driver.StateInFlight)
	req := request("in flight")
	req.Nonce = driver.Nonce{1}
	if again := grant(t, b, req); again.Token != before.Token {
		t.Errorf("the claim again has the token %d, not %d", again.Token, before.Token)
	}
	b.clock.Advance(1)
	if ref := grant(t, b, request("new")); ref.Token <= before.Token {
		t.Errorf("the token %d is not larger than %d", ref.Token, before.Token)
	}
	b.clock.Advance(retention + tombstone)
	if _, err := b.Sweep(t.Context(), 1000); err != nil {
		t.Fatal(err)
	}
	var n int
	must(t, b.DB().QueryRow(`SELECT count(*) FROM idem_records`).Scan(&n))
	if n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

// dump is the database as text of SQL.
func dump(t *testing.T, db *sql.DB) string {
	var b strings.Builder
	lines := func(query string) {
		rows, err := db.QueryContext(context.Background(), query)
		must(t, err)
		defer rows.Close()
		for rows.Next() {
			var line string
			must(t, rows.Scan(&line))
			fmt.Fprintf(&b, "%s;\n", line)
		}
		must(t, rows.Err())
	}
	lines(`SELECT sql FROM sqlite_schema WHERE type = 'table' AND name LIKE 'idem_%'`)
	for _, table := range []string{"idem_meta", "idem_records"} {
		var columns string
		must(t, db.QueryRow(`SELECT group_concat('quote(' || name || ')', ' || '', '' || ') FROM pragma_table_info(?)`, table).Scan(&columns))
		lines(`SELECT 'INSERT INTO ` + table + ` VALUES (' || ` + columns + ` || ')' FROM ` + table)
	}
	lines(`SELECT sql FROM sqlite_schema WHERE type IN ('index', 'trigger') AND sql IS NOT NULL`)
	return b.String()
}

// A row that cannot be read refuses its key, in each call, and is not swept; it is
// never taken for absent. Others are not touched by it.
func TestUnreadableRows(t *testing.T) {
	for name, spoil := range map[string]string{
		"newer":             `version = 2`,
		"no such state":     `kind = 9`,
		"state 0":           `kind = 0`,
		"flags":             `flags = 64`,
		"attempt":           `attempt = -1`,
		"a huge attempt":    `attempt = 1 << 40`,
		"token":             `token = -5`,
		"no token":          `token = 0`,
		"lease":             `lease = -1`,
		"tombstone":         `tombstone = -1`,
		"nonce":             `nonce = x'0102'`,
		"fingerprint":       `fingerprint = x'01'`,
		"size":              `size = 3`,
		"result":            `meta = x'00'`,
		"result of a claim": `size = 1, body = x'00'`,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, small())
			req := request("k")
			ref := grant(t, b, req)
			complete(t, b, grant(t, b, request("other")), "x")
			must(t, execute(b.DB(), `UPDATE idem_records SET `+spoil+` WHERE key = ?`, req.Key[:]))
			unreadable := func(call string, err error) {
				t.Helper()
				var u *driver.UnreadableError
				if !errors.As(err, &u) || u.Key != req.Key {
					t.Errorf("%s: %v; it should say that the record cannot be read", call, err)
				}
			}
			_, err := b.Claim(t.Context(), request("k"))
			unreadable("Claim", err)
			_, err = b.Claim(t.Context(), req)
			unreadable("Claim by its nonce", err)
			unreadable("Renew", b.Renew(t.Context(), ref, lease))
			_, err = b.Complete(t.Context(), ref, completion("x"))
			unreadable("Complete", err)
			unreadable("Release", b.Release(t.Context(), ref, driver.Release{Retention: retention}))
			unreadable("Abandon", b.Abandon(t.Context(), ref))
			_, err = b.Lookup(t.Context(), req.Key)
			unreadable("Lookup", err)
			_, err = b.Resolve(t.Context(), req.Key, driver.Resolution{Action: driver.ResolveRelease, Force: true, Retention: retention, Tombstone: tombstone})
			unreadable("Resolve", err)
			unreadable("Wait", b.Wait(t.Context(), ref))
			_, err = b.DoTx(t.Context(), txRequest("k"), never(t))
			unreadable("DoTx", err)
			tx, err := b.DB().Begin()
			must(t, err)
			_, err = b.CompleteTx(t.Context(), tx, ref, completion("x"))
			unreadable("CompleteTx", err)
			must(t, tx.Rollback())
			if name == "result" {
				return // lists and sweeps do not look at results
			}
			page, err := b.List(t.Context(), driver.Query{Limit: 10})
			if err != nil || len(page.Records) != 1 {
				t.Errorf("List: %d records, %v", len(page.Records), err)
			}
			page, err = b.List(t.Context(), driver.Query{Limit: 10, States: []driver.State{driver.StateInFlight, driver.StateUnknown}})
			if err != nil || len(page.Records) != 0 {
				t.Errorf("List of what is open: %d records, %v", len(page.Records), err)
			}
			b.clock.Advance(1000 * time.Hour)
			_, err = b.Sweep(t.Context(), 100)
			must(t, err)
			_, err = b.Lookup(t.Context(), req.Key)
			unreadable("Lookup after a sweep", err)
			state(t, b, "other", driver.StateAbsent)
		})
	}
}
