package mysqlstore_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/mysqlstore"
)

var update = flag.Bool("update", false, "write the golden rows anew")

const goldenRows = "testdata/format1.sql"

// goldenTime is when the golden rows were written, in microseconds: the test
// moves their times to now.
const goldenTime = int64(1_800_000_000_000_000)

type goldenKey struct {
	id    string
	state driver.State
	make  func(t *testing.T, s *one, req driver.ClaimRequest, ref driver.Ref)
	check func(rec driver.Record) bool
}

func goldenKeys() []goldenKey {
	must := func(t *testing.T, err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	resolution := func(a driver.Action) driver.Resolution {
		return driver.Resolution{Action: a, Retention: time.Hour, Tombstone: 24 * time.Hour, Note: "by hand", Result: driver.Result{}}
	}
	return []goldenKey{
		{"in-flight", driver.StateInFlight, func(*testing.T, *one, driver.ClaimRequest, driver.Ref) {}, func(rec driver.Record) bool {
			return rec.Scope == "golden" && rec.Fingerprint.Rule == 1
		}},
		{"lapsed", driver.StateUnknown, func(t *testing.T, s *one, req driver.ClaimRequest, ref driver.Ref) {
			must(t, s.Renew(t.Context(), ref, time.Microsecond))
		}, nil},
		{"lapsed and noted", driver.StateUnknown, func(t *testing.T, s *one, req driver.ClaimRequest, ref driver.Ref) {
			must(t, s.Renew(t.Context(), ref, time.Microsecond))
			_, err := s.Sweep(t.Context(), 100)
			must(t, err)
		}, nil},
		{"abandoned", driver.StateUnknown, func(t *testing.T, s *one, req driver.ClaimRequest, ref driver.Ref) {
			must(t, s.Abandon(t.Context(), ref))
		}, nil},
		{"completed", driver.StateCompleted, func(t *testing.T, s *one, req driver.ClaimRequest, ref driver.Ref) {
			complete(t, s, ref, completionOf(req, "201", "made\x00\xff"))
		}, func(rec driver.Record) bool {
			return string(rec.Result.Meta) == "201" && string(rec.Result.Body) == "made\x00\xff" && rec.ID == "completed"
		}},
		{"dropped", driver.StateCompleted, func(t *testing.T, s *one, req driver.ClaimRequest, ref driver.Ref) {
			c := completionOf(req, "", "")
			c.Dropped = true
			complete(t, s, ref, c)
		}, func(rec driver.Record) bool { return rec.Dropped }},
		{"resolved", driver.StateCompleted, func(t *testing.T, s *one, req driver.ClaimRequest, ref driver.Ref) {
			must(t, s.Abandon(t.Context(), ref))
			_, err := s.Resolve(t.Context(), ref.Key, resolution(driver.ResolveComplete))
			must(t, err)
		}, func(rec driver.Record) bool { return rec.Note == "by hand" }},
		{"erased", driver.StateForgotten, func(t *testing.T, s *one, req driver.ClaimRequest, ref driver.Ref) {
			complete(t, s, ref, completionOf(req, "201", "made"))
			_, err := s.Resolve(t.Context(), ref.Key, resolution(driver.ResolveErase))
			must(t, err)
		}, func(rec driver.Record) bool { return rec.Note == "by hand" && rec.Result.Size() == 0 }},
		{"released", driver.StateAbsent, func(t *testing.T, s *one, req driver.ClaimRequest, ref driver.Ref) {
			must(t, s.Release(t.Context(), ref, driver.Release{Answered: true, Retention: time.Hour}))
		}, func(rec driver.Record) bool { return rec.Answered }},
		{"released by hand", driver.StateAbsent, func(t *testing.T, s *one, req driver.ClaimRequest, ref driver.Ref) {
			r := resolution(driver.ResolveRelease)
			r.Force = true
			_, err := s.Resolve(t.Context(), ref.Key, r)
			must(t, err)
		}, func(rec driver.Record) bool { return rec.Note == "by hand" }},
	}
}

// Trap 60: rows that the first version wrote read as they did.
func TestTrap60GoldenRows(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	s := b.open(t, mysqlstore.Options{})
	request := func(id string) driver.ClaimRequest {
		req := claimOf("golden", id)
		req.Nonce = driver.Nonce{1}
		return req
	}
	if *update {
		for _, k := range goldenKeys() {
			req := request(k.id)
			k.make(t, s, req, grant(t, s, req))
		}
		writeGolden(t, s)
		b.exec(t, "DELETE FROM "+s.prefix+"records")
	}
	text, err := os.ReadFile(goldenRows)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		b.exec(t, strings.ReplaceAll(strings.TrimSpace(line), "{prefix}", s.prefix))
	}
	b.exec(t, "UPDATE "+s.prefix+"records SET since = since + (UNIX_TIMESTAMP() * 1000000 - ?), due = due + (UNIX_TIMESTAMP() * 1000000 - ?)", goldenTime, goldenTime)
	for _, k := range goldenKeys() {
		req := request(k.id)
		rec := lookup(t, s, req.Key, k.state)
		if rec.Token == 0 || rec.Attempt != 1 || k.check != nil && !k.check(rec) {
			t.Errorf("%s: %+v", k.id, rec)
		}
		if k.id == "in-flight" || k.id == "lapsed" || k.id == "lapsed and noted" {
			if ref := grant(t, s, req); ref.Token != rec.Token {
				t.Errorf("%s: the repeat of its claim is granted the token %d, not %d", k.id, ref.Token, rec.Token)
			}
		}
		if _, err := s.Claim(t.Context(), req); k.id == "released" && !errors.Is(err, driver.ErrLost) {
			t.Errorf("the repeat of a released claim: %v", err)
		}
	}
}

// writeGolden writes the store's rows as statements, their times relative to
// goldenTime.
func writeGolden(t *testing.T, s *one) {
	t.Helper()
	rows, err := s.bed.db.QueryContext(t.Context(), `SELECT CONCAT('INSERT INTO {prefix}records (hash, format, kind, late, dropped, attempt, token, since, due, tombstone, answered, nonce, ended, fingerprint, scope, id, note, result_meta, result_body) VALUES (',
		CONCAT_WS(', ', CONCAT("x'", HEX(hash), "'"), format, kind, late, dropped, attempt, token,
		since - UNIX_TIMESTAMP() * 1000000 + 1800000000000000, due - UNIX_TIMESTAMP() * 1000000 + 1800000000000000, tombstone, COALESCE(answered, 'NULL')),
		COALESCE(CONCAT(", x'", HEX(nonce), "'"), ', NULL'), COALESCE(CONCAT(", x'", HEX(ended), "'"), ', NULL'), COALESCE(CONCAT(", x'", HEX(fingerprint), "'"), ', NULL'),
		COALESCE(CONCAT(", x'", HEX(scope), "'"), ', NULL'), COALESCE(CONCAT(", x'", HEX(id), "'"), ', NULL'), COALESCE(CONCAT(", x'", HEX(note), "'"), ', NULL'),
		COALESCE(CONCAT(", x'", HEX(result_meta), "'"), ', NULL'), COALESCE(CONCAT(", x'", HEX(result_body), "'"), ', NULL'), ')') FROM `+s.prefix+`records ORDER BY hash`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var text strings.Builder
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		text.WriteString(line + "\n")
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(goldenRows, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A row that cannot be read refuses its key in every method, and stays as it is.
func TestTrap60ARowThatCannotBeRead(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	for _, with := range []mysqlstore.Options{{}, mysqlstore.Options{}.Plain()} {
		for name, damage := range map[string]string{
			"a newer format":       "format = 2",
			"an unknown state":     "kind = 9",
			"no state":             "kind = 0",
			"no token":             "token = 0",
			"a short nonce":        "nonce = 'short'",
			"a short fingerprint":  "fingerprint = 'short'",
			"a negative tombstone": "tombstone = -1",
		} {
			t.Run(name, func(t *testing.T) {
				s := b.open(t, with)
				req := claimOf("s", "k")
				ref := grant(t, s, req)
				// Long ago, so that it would be over.
				if err := s.Pass(t.Context(), 1000*time.Hour); err != nil {
					t.Fatal(err)
				}
				b.exec(t, "UPDATE "+s.prefix+"records SET "+damage)
				before := dump(t, s)
				retry := claimOf("s", "k")
				retry.Retry = true
				tx, err := b.db.BeginTx(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = tx.Rollback() }()
				calls := map[string]func() error{
					"Claim":      func() error { _, err := s.Claim(t.Context(), claimOf("s", "k")); return err },
					"its repeat": func() error { _, err := s.Claim(t.Context(), req); return err },
					"a retry":    func() error { _, err := s.Claim(t.Context(), retry); return err },
					"Renew":      func() error { return s.Renew(t.Context(), ref, time.Minute) },
					"Complete":   func() error { _, err := s.Complete(t.Context(), ref, completionOf(req, "", "")); return err },
					"Release":    func() error { return s.Release(t.Context(), ref, driver.Release{Retention: time.Hour}) },
					"Abandon":    func() error { return s.Abandon(t.Context(), ref) },
					"Lookup":     func() error { _, err := s.Lookup(t.Context(), req.Key); return err },
					"Resolve": func() error {
						_, err := s.Resolve(t.Context(), req.Key, driver.Resolution{Action: driver.ResolveRelease, Force: true, Retention: time.Hour, Tombstone: time.Hour})
						return err
					},
					"DoTx":       func() error { _, err := s.DoTx(t.Context(), txRequestOf("s", "k"), s.effect("k")); return err },
					"CompleteTx": func() error { _, err := s.CompleteTx(t.Context(), tx, ref, completionOf(req, "", "")); return err },
				}
				for call, f := range calls {
					var unreadable *driver.UnreadableError
					if err := f(); !errors.As(err, &unreadable) || unreadable.Key != req.Key || unreadable.Reason == "" {
						t.Errorf("%s: %v", call, err)
					}
				}
				_ = tx.Rollback()
				if _, err := s.Sweep(t.Context(), 100); err != nil {
					t.Errorf("Sweep: %v", err)
				}
				if _, err := s.List(t.Context(), driver.Query{Limit: 10}); err != nil {
					t.Errorf("List: %v", err)
				}
				switch damage {
				case "format = 2", "kind = 9", "kind = 0":
					if after := dump(t, s); after != before {
						t.Errorf("the row was changed:\n%s\n%s", before, after)
					}
				}
				if n := s.effects(t, "k"); n != 0 {
					t.Errorf("%d effects", n)
				}
			})
		}
	}
}

func dump(t *testing.T, s *one) string {
	t.Helper()
	var text string
	err := s.bed.db.QueryRowContext(t.Context(), "SELECT GROUP_CONCAT(CONCAT_WS(' ', HEX(hash), format, kind, attempt, token, since, due, tombstone, HEX(nonce))) FROM "+s.prefix+"records").Scan(&text)
	if err != nil {
		t.Fatal(fmt.Errorf("reading the rows: %w", err))
	}
	return text
}
