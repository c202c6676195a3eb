package sqlitestore_test

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/sqlitestore"
)

// Migrating is done once, however many do it, and does not disturb who writes.
func TestMigrateManyAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "app.db")
	must(t, open(t, file, quick).Ping()) // it is there, and empty
	const n = 8
	var ready sync.WaitGroup
	ready.Add(n)
	errs := make(chan error, n)
	for range n {
		db := open(t, file, quick)
		var once sync.Once // it is tried again when the database is busy
		o := small().WithGap(func(string) {
			once.Do(func() {
				ready.Done() // all have seen that there is nothing
				ready.Wait()
			})
		})
		go func() { errs <- sqlitestore.Migrate(t.Context(), db, o) }()
	}
	for range n {
		must(t, <-errs)
	}
	db := open(t, file, quick)
	s := newStore(t, db, nil)
	ref := grant(t, s, request("k"))
	migrated(t, db, nil)
	complete(t, s, ref, "x")
	var rows int
	must(t, db.QueryRow(`SELECT count(*) FROM idem_meta`).Scan(&rows))
	if rows != 1 {
		t.Errorf("%d rows of meta", rows)
	}
}

// Trap 64: tables that are missing, damaged, or of another version, and a database
// that cannot be written, are refused with one sentence and a hint.
func TestTrap64WhatNewRefuses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil string
		query string
		says  string
	}{
		{name: "no tables", spoil: "-", says: "no tables of idem's; run idem store migrate"},
		{name: "newer", spoil: `UPDATE idem_meta SET format = 2`, says: "version 2, this program knows 1"},
		{name: "older", spoil: `UPDATE idem_meta SET format = -1`, says: "version -1, this program needs 1; run idem store migrate"},
		{name: "no row", spoil: `DELETE FROM idem_meta`, says: "lost its row"},
		{name: "no records", spoil: `DROP TABLE idem_records`, says: "table idem_records is missing"},
		{name: "no index", spoil: `DROP INDEX idem_kept`, says: "index idem_kept is missing"},
		{name: "no trigger", spoil: `DROP TRIGGER idem_updated`, says: "trigger idem_updated is missing"},
		{name: "read-only file", query: "&mode=ro", says: "read-only"},
		{name: "query_only", query: "&_pragma=query_only(on)", says: "refuses to write"},
		{name: "in memory", query: "&mode=memory", spoil: "-", says: "in memory"},
		{name: "journal in memory", query: "&_pragma=journal_mode(memory)", says: "damaged database"},
		{name: "exclusive", query: "&_pragma=locking_mode(exclusive)", says: "keeps all others out"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "app.db")
			plain := strings.Replace(quick, "&_pragma=journal_mode(wal)", "", 1)
			db := open(t, file, plain)
			if tt.spoil != "-" {
				migrated(t, db, nil)
			}
			if tt.spoil != "" && tt.spoil != "-" {
				must(t, execute(db, tt.spoil))
			}
			must(t, db.Close())
			spoiled := open(t, file, plain+tt.query)
			s, err := sqlitestore.New(t.Context(), spoiled, nil)
			if err == nil {
				must(t, s.Close())
				t.Fatal("New took it")
			}
			if !strings.HasPrefix(err.Error(), "sqlitestore: ") || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("New: %v; it should say: %s", err, tt.says)
			}
			findings, err := sqlitestore.Check(t.Context(), spoiled, nil)
			if err != nil {
				t.Fatalf("Check: %v", err)
			}
			worst := driver.SeverityOK
			for _, f := range findings {
				worst = max(worst, f.Severity)
				if f.Severity != driver.SeverityOK && (f.Means == "" || f.Remedy == "") {
					t.Errorf("a finding without a word: %+v", f)
				}
			}
			if worst != driver.SeverityError {
				t.Errorf("the worst of Check's findings is %v", worst)
			}
		})
	}
	// Nor does Migrate touch what is newer.
	db := migrated(t, open(t, filepath.Join(t.TempDir(), "app.db"), quick), nil)
	must(t, execute(db, `UPDATE idem_meta SET format = 7`))
	if err := sqlitestore.Migrate(t.Context(), db, nil); err == nil || !strings.Contains(err.Error(), "newer version") {
		t.Errorf("Migrate of what is newer: %v", err)
	}
}

// A store that is open when its database is brought to a newer version stops with a
// word, whatever it is asked.
func TestASchemaThatBecomesNewer(t *testing.T) {
	b := newBed(t, small())
	ref := grant(t, b, request("k"))
	must(t, execute(b.DB(), fmt.Sprintf(`UPDATE idem_meta SET format = %d`, sqlitestore.SchemaFormat+1)))
	newer := func(call string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "a newer version of it is needed") {
			t.Errorf("%s: %v", call, err)
		}
	}
	_, err := b.Claim(t.Context(), request("new"))
	newer("Claim", err)
	newer("Renew", b.Renew(t.Context(), ref, lease))
	_, err = b.Lookup(t.Context(), ref.Key)
	newer("Lookup", err)
	_, err = b.DoTx(t.Context(), txRequest("tx"), never(t))
	newer("DoTx", err)
	newer("Ping", b.Ping(t.Context()))
	_, err = b.Stats(t.Context())
	newer("Stats", err)
}

// Trap 51: the settings that let a power cut take back what was acknowledged are
// findings, and the store does not call itself durable then.
func TestTrap51Settings(t *testing.T) {
	for _, tt := range []struct {
		query, subject, found string
		severity              driver.Severity
	}{
		{"journal_mode(wal)&_pragma=synchronous(full)", "synchronous", "2", driver.SeverityOK},
		{"journal_mode(wal)&_pragma=synchronous(extra)", "synchronous", "3", driver.SeverityOK},
		{"journal_mode(wal)&_pragma=synchronous(normal)", "synchronous", "normal", driver.SeverityWarning},
		{"journal_mode(wal)&_pragma=synchronous(off)", "synchronous", "off", driver.SeverityWarning},
		{"journal_mode(delete)&_pragma=synchronous(full)", "synchronous", "full", driver.SeverityWarning},
		{"journal_mode(delete)&_pragma=synchronous(extra)", "synchronous", "3", driver.SeverityOK},
		{"journal_mode(truncate)&_pragma=synchronous(full)", "synchronous", "2", driver.SeverityOK},
	} {
		db := migrated(t, open(t, filepath.Join(t.TempDir(), "app.db"), "_pragma="+tt.query), nil)
		findings, err := sqlitestore.Check(t.Context(), db, nil)
		must(t, err)
		f := finding(t, findings, tt.subject)
		if f.Found != tt.found || f.Severity != tt.severity {
			t.Errorf("%s: %+v", tt.query, f)
		}
		if s := newStore(t, db, nil); s.Describe().Durable != (tt.severity == driver.SeverityOK) {
			t.Errorf("%s: the store says durable %v", tt.query, s.Describe().Durable)
		}
	}
}

// The store's statements find what they look for by an index: none of them reads
// all records, but for lists and counts of what is over.
func TestStatementsUseIndexes(t *testing.T) {
	b := newBed(t, small())
	for text, want := range map[string]string{
		`SELECT 1 FROM idem_records WHERE key = ?1`:                                                                                       "sqlite_autoindex_idem_records_1 (key=?)",
		`SELECT n FROM idem_records WHERE kind = 1 AND kind <= 3 AND due <= ?1 ORDER BY due LIMIT ?2`:                                     "COVERING INDEX idem_open (kind=? AND due<?)",
		`SELECT min(since) FILTER (WHERE due > ?1) FROM idem_records WHERE kind IN (2, 3) AND kind <= 3`:                                  "COVERING INDEX idem_open (kind=?)",
		`SELECT * FROM idem_records r WHERE filed = 1 AND kind > 3 AND due <= ?1 AND kind <= 7 AND version = 1 ORDER BY due LIMIT ?2`:     "INDEX idem_kept (due<?)",
		`SELECT * FROM idem_records r WHERE kind <= 3 AND (kind, due, since, n) > (?1, ?2, ?3, ?4) ORDER BY kind, due, since, n LIMIT ?5`: "INDEX idem_open ((kind,due,since)>",
		`SELECT * FROM idem_records r WHERE key > ?1 ORDER BY key LIMIT ?2`:                                                               "sqlite_autoindex_idem_records_1 (key>?)",
		`SELECT * FROM idem_records r WHERE kind IN (2, 3) AND kind <= 3 AND due <= ?1 AND version = 1 LIMIT ?2`:                          "INDEX idem_open (kind=? AND due<?)",
		`SELECT count(*) FROM (SELECT 1 FROM idem_records WHERE kind = 1 AND kind <= 3 AND due <= ?1 LIMIT ?2)`:                           "COVERING INDEX idem_open (kind=? AND due<?)",
		`UPDATE idem_records SET due = ?1 WHERE kind = 1 AND kind <= 3 AND due > ?2 AND version = 1`:                                      "INDEX idem_open (kind=? AND due>?)",
		`SELECT kind, count(*) FROM idem_records WHERE filed = 1 AND kind > 3 AND due <= ?1 GROUP BY kind`:                                "INDEX idem_kept (due<?)",
		`SELECT key, token FROM idem_records WHERE kind = 1 AND key IN (?, ?)`:                                                            "sqlite_autoindex_idem_records_1 (key=?)",
		`SELECT count(*) FILTER (WHERE tombstone <= ?1 - due) FROM idem_records WHERE kind = 1 AND kind <= 3 AND due<=?`:                  "INDEX idem_open (kind=? AND due<?)",
		`SELECT kind FROM idem_records WHERE n > (SELECT filed FROM idem_meta WHERE id = 1) AND filed = 0 AND kind > 3 GROUP BY kind`:     "USING INTEGER PRIMARY KEY (rowid>?)",
		`UPDATE idem_records SET filed = 1 WHERE n > ?1 AND n <= ?2 AND filed = 0`:                                                        "USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)",
	} {
		if plan := planOf(t, b.DB(), text); !strings.Contains(plan, want) || strings.Contains(plan, "TEMP B-TREE FOR ORDER") {
			t.Errorf("%s: the plan is %s; it should use %s", text, plan, want)
		}
	}
}

func planOf(t testing.TB, db *sql.DB, text string) string {
	t.Helper()
	rows, err := db.Query("EXPLAIN QUERY PLAN " + regexp.MustCompile(`\?[0-9]*`).ReplaceAllString(text, "5"))
	must(t, err)
	defer rows.Close()
	var plan []string
	for rows.Next() {
		var id, parent, unused int
		var detail string
		must(t, rows.Scan(&id, &parent, &unused, &detail))
		plan = append(plan, detail)
	}
	must(t, rows.Err())
	return strings.Join(plan, "; ")
}
