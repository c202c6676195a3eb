package mysqlstore_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/mysqlstore"
)

// Trap 64: what keeps a store from being used is one clear sentence at the
// start, with what to do about it.
func TestTrap64RefusedAtTheStart(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	prefix := b.tables(t)
	tests := []struct {
		name, params, prefix string
		prepare, undo        string
		want                 string
	}{
		{"no tables", "", "nothing_", "", "", "the tables are missing; make them with idem store migrate"},
		{"newer tables", "", prefix, "UPDATE PREFIXschema SET version = 9, compatible = 9", "UPDATE PREFIXschema SET version = 1, compatible = 1", "use a newer program"},
		{"older tables", "", prefix, "UPDATE PREFIXschema SET version = 0", "UPDATE PREFIXschema SET version = 1", "idem store migrate"},
		{"no record of the version", "", prefix, "DELETE FROM PREFIXschema", "INSERT INTO PREFIXschema VALUES (1, 1, 1)", "idem store migrate"},
		{"a table is missing", "", prefix, "RENAME TABLE PREFIXattempts TO PREFIXelsewhere", "RENAME TABLE PREFIXelsewhere TO PREFIXattempts", "the table of the attempts is missing"},
		{"another engine", "", prefix, "ALTER TABLE PREFIXrecords ENGINE=MyISAM", "ALTER TABLE PREFIXrecords ENGINE=InnoDB", "the engine MyISAM, which has no transactions"},
		{"read-only", "", prefix, "SET GLOBAL read_only = ON", "SET GLOBAL read_only = OFF", "read-only (read_only is on)"},
		{"no autocommit", "autocommit=0", prefix, "", "", "autocommit is off"},
		{"uncommitted reads", "tx_isolation='READ-UNCOMMITTED'", prefix, "", "", "what is not committed"},
		{"a bad prefix", "", "a`b", "", "", "the prefix of the tables"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pool := b
			if tt.params != "" {
				pool = b.with(t, tt.params)
			}
			if tt.prepare != "" {
				b.exec(t, strings.ReplaceAll(tt.prepare, "PREFIX", prefix))
				defer b.exec(t, strings.ReplaceAll(tt.undo, "PREFIX", prefix))
			}
			o := small(mysqlstore.Options{Prefix: tt.prefix})
			s, err := mysqlstore.New(t.Context(), pool.db, &o)
			if err == nil {
				_ = s.Close()
				t.Fatal("New succeeded; it should refuse")
			}
			if !strings.HasPrefix(err.Error(), "mysqlstore: ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("New: %v; it should say: %s", err, tt.want)
			}
		})
	}
	o := small(mysqlstore.Options{Prefix: prefix})
	s, err := mysqlstore.New(t.Context(), b.db, &o)
	if err != nil {
		t.Fatalf("New, when all was undone: %v", err)
	}
	_ = s.Close()
}

// A program of an older version goes on with newer tables that say it may.
func TestNewerTablesThatAreCompatible(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	o := small(mysqlstore.Options{Prefix: b.tables(t)})
	b.exec(t, "UPDATE "+o.Prefix+"schema SET version = 2, compatible = 1")
	defer b.exec(t, "UPDATE "+o.Prefix+"schema SET version = 1, compatible = 1")
	s, err := mysqlstore.New(t.Context(), b.db, &o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	grant(t, s, claimOf("s", "k"))
	if err := mysqlstore.Migrate(t.Context(), b.db, &o); err == nil || !strings.Contains(err.Error(), "use a newer program") {
		t.Errorf("Migrate over newer tables: %v", err)
	}
}

// Migrations run at once, and again, and while a store is used.
func TestMigrateManyTimes(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	o := small(mysqlstore.Options{Prefix: "many_"})
	defer func() {
		for _, table := range []string{"records", "attempts", "schema"} {
			b.exec(t, "DROP TABLE many_"+table)
		}
	}()
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = mysqlstore.Migrate(context.Background(), b.db, &o) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Errorf("Migrate: %v", err)
		}
	}
	s, err := mysqlstore.New(t.Context(), b.db, &o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ref := grant(t, s, claimOf("s", "k"))
	// One that broke off before it had noted its version is gone on with.
	b.exec(t, "DELETE FROM many_schema")
	if err := mysqlstore.Migrate(t.Context(), b.db, &o); err != nil {
		t.Errorf("Migrate again: %v", err)
	}
	complete(t, s, ref, completionOf(claimOf("s", "k"), "", "r"))
}

// A server that becomes read-only says so at each write, and Ping says so too.
func TestTrap64ReadOnlyLater(t *testing.T) {
	b := private(t, nil)
	if b == nil {
		return
	}
	s := b.open(t, mysqlstore.Options{})
	req := claimOf("s", "k")
	ref := grant(t, s, req)
	b.exec(t, "CREATE USER plain@'%' IDENTIFIED BY 'plain'")
	b.exec(t, "GRANT SELECT, INSERT, UPDATE, DELETE ON idem.* TO plain@'%'")
	other := b.over(connect(t, strings.Replace(b.server.DSN(), "idem:idem@", "plain:plain@", 1))).reopen(t, s.opts)
	b.exec(t, "SET GLOBAL read_only = ON")
	if err := other.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("Ping: %v", err)
	}
	_, err := other.Claim(t.Context(), claimOf("s", "other"))
	if err == nil || !strings.Contains(err.Error(), "the server is read-only") || !strings.HasPrefix(err.Error(), "mysqlstore: ") {
		t.Errorf("Claim: %v", err)
	}
	lookup(t, other, req.Key, driver.StateInFlight)
	b.exec(t, "SET GLOBAL read_only = OFF")
	if err := other.Ping(t.Context()); err != nil {
		t.Errorf("Ping: %v", err)
	}
	complete(t, other, ref, completionOf(req, "", "r"))
}

// Trap 51: each setting that takes back what was acknowledged is found, with
// what it means and what to do.
func TestTrap51Settings(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	found := func(t *testing.T, b *bed, o mysqlstore.Options) map[string]driver.Finding {
		t.Helper()
		all, err := mysqlstore.Check(t.Context(), b.db, &o)
		if err != nil {
			t.Fatal(err)
		}
		by := map[string]driver.Finding{}
		for _, f := range all {
			by[f.Subject] = f
			if ok := f.Severity == driver.SeverityOK; f.Subject == "" || f.Found == "" || ok != (f.Means == "") || ok != (f.Remedy == "") {
				t.Errorf("a finding that says too little or too much: %+v", f)
			}
		}
		return by
	}
	o := mysqlstore.Options{Prefix: b.tables(t)}
	for subject, f := range found(t, b, o) {
		if f.Severity != driver.SeverityOK {
			t.Errorf("%s is %v: %+v", subject, f.Severity, f)
		}
	}
	if f := found(t, b, mysqlstore.Options{Prefix: "nothing_"})["schema"]; f.Severity != driver.SeverityError || f.Found != "missing" {
		t.Errorf("without tables: %+v", f)
	}
	if f := found(t, b, mysqlstore.Options{Prefix: o.Prefix, MaxResult: 1 << 30})["max_allowed_packet"]; f.Severity != driver.SeverityWarning {
		t.Errorf("with a limit that the server does not take: %+v", f)
	}

	weak := private(t, settings("innodb-flush-log-at-trx-commit=2", "log-bin=bin", "sync-binlog=0", "binlog-format=STATEMENT", "innodb-doublewrite=OFF"))
	o.Prefix = weak.tables(t)
	by := found(t, weak, o)
	for subject, want := range map[string]driver.Severity{
		"innodb_flush_log_at_trx_commit": driver.SeverityWarning,
		"sync_binlog":                    driver.SeverityWarning,
		"binlog_format":                  driver.SeverityWarning,
		"innodb_doublewrite":             driver.SeverityWarning,
		"replication":                    driver.SeverityUnknown,
		"schema":                         driver.SeverityOK,
		"privileges":                     driver.SeverityOK,
	} {
		if by[subject].Severity != want || by[subject].Subject == "" {
			t.Errorf("%s: %+v; it should be %v", subject, by[subject], want)
		}
	}
	weak.exec(t, "SET GLOBAL read_only = ON")
	if f := found(t, weak, o)["read_only"]; f.Severity != driver.SeverityError {
		t.Errorf("read-only: %+v", f)
	}
	weak.exec(t, "SET GLOBAL read_only = OFF")
	weak.exec(t, "CREATE USER poor@'%' IDENTIFIED BY 'poor'")
	weak.exec(t, "GRANT SELECT ON idem.* TO poor@'%'")
	poor := weak.over(connect(t, strings.Replace(weak.server.DSN(), "idem:idem@", "poor:poor@", 1)))
	if f := found(t, poor, o)["privileges"]; f.Severity != driver.SeverityError {
		t.Errorf("without privileges: %+v", f)
	}

	// New says once what Check does, and keeps the promise of the log to itself.
	var log strings.Builder
	o = small(o)
	o.Logger = textLogger(&log)
	s, err := mysqlstore.New(t.Context(), weak.db, &o)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	if n := strings.Count(log.String(), "level=WARN"); n != 4 || !strings.Contains(log.String(), "innodb_flush_log_at_trx_commit") {
		t.Errorf("New logged %d warnings; it should log 4:\n%s", n, log.String())
	}
}

// The store works, in every rule, with the settings that servers come with.
func TestUnusualSettings(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	for name, params := range map[string]string{
		"no strict mode":      "sql_mode=''",
		"every strict mode":   "sql_mode='TRADITIONAL,ANSI,PAD_CHAR_TO_FULL_LENGTH,NO_BACKSLASH_ESCAPES,NO_UNSIGNED_SUBTRACTION,HIGH_NOT_PRECEDENCE,PIPES_AS_CONCAT'",
		"assignments at once": "sql_mode='SIMULTANEOUS_ASSIGNMENT'",
		"empty is NULL":       "sql_mode='EMPTY_STRING_IS_NULL'",
		"Oracle's mode":       "sql_mode='ORACLE'",
		"found rows":          "clientFoundRows=true",
		"interpolated":        "interpolateParams=true",
		"charset":             "charset=latin1",
		"time zone":           "time_zone='%2B12:45'&parseTime=true&loc=America%2FNew_York",
	} {
		t.Run(name, func(t *testing.T) { battery(t, b.with(t, params)) })
	}
}

// Whatever isolation a server sets for those who do not ask.
func TestIsolations(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	for _, params := range []string{
		"tx_isolation='READ-COMMITTED'", "tx_isolation='REPEATABLE-READ'", "tx_isolation='SERIALIZABLE'",
		"tx_isolation='REPEATABLE-READ'&innodb_snapshot_isolation=ON",
	} {
		t.Run(strings.NewReplacer("'", "", "&", " ").Replace(params), func(t *testing.T) {
			bed := b.with(t, params)
			battery(t, bed)
			storm(t, bed)
		})
	}
}

func TestTheVersionIsChecked(t *testing.T) {
	for version, want := range map[string]bool{
		"8.0.36": true, "8.4.0": true, "9.1.0-commercial": true, "5.7.44-log": false, "10.11.6-MariaDB-0+deb12u1": true,
		"10.6.0-MariaDB": true, "10.5.23-MariaDB": false, "11.4.2-MariaDB": true, "": false, "8": false,
	} {
		if got := mysqlstore.Supported(version); got != want {
			t.Errorf("%q is supported: %v", version, got)
		}
	}
}

// A result of exactly the limit is kept whatever the server takes in a packet and
// in its redo log, and one byte more is refused before anything is changed.
func TestTrap61WhatTheServerTakes(t *testing.T) {
	for _, server := range [][]string{
		{"max-allowed-packet=1M"},
		{"max-allowed-packet=64M", "innodb-log-file-size=16M"},
	} {
		t.Run(fmt.Sprint(server), func(t *testing.T) {
			b := private(t, settings(server...))
			if b == nil {
				return
			}
			s := b.open(t, mysqlstore.Options{MaxResult: 64 << 20})
			limit := s.Describe().MaxResult
			if limit < 900<<10 || limit > 2<<20 {
				t.Fatalf("the limit is %d", limit)
			}
			req := claimOf(strings.Repeat("s", driver.MaxName), strings.Repeat("i", driver.MaxName))
			ref := grant(t, s, req)
			_, err := s.Complete(t.Context(), ref, completionOf(req, "m", strings.Repeat("\x00", limit)))
			if err == nil || !strings.Contains(err.Error(), driver.ErrTooLarge.Error()) {
				t.Errorf("one byte more: %v", err)
			}
			lookup(t, s, req.Key, driver.StateInFlight)
			complete(t, s, ref, completionOf(req, "m", strings.Repeat("\x00", limit-1)))
			if rec := lookup(t, s, req.Key, driver.StateCompleted); len(rec.Result.Body) != limit-1 {
				t.Errorf("%d bytes were kept", len(rec.Result.Body))
			}
			id := "in a transaction"
			reply, err := s.DoTx(t.Context(), txRequestOf("tx", id), large(limit))
			if err != nil || !reply.Ran {
				t.Errorf("DoTx: %v %v", reply.Ran, err)
			}
		})
	}
}
