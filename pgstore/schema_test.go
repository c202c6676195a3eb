package pgstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/pgstore"
	"github.com/idem-go/idem/testserver"
)

// Trap 64: what is wrong is said in one sentence, at the start.
func TestTrap64AtTheStart(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	ctx := t.Context()
	refused := func(what string, o *pgstore.Options, want ...string) {
		t.Helper()
		_, err := pgstore.New(ctx, b.pool, o)
		_, dbErr := pgstore.NewDB(ctx, b.sql, o)
		for _, err := range []error{err, dbErr} {
			if err == nil {
				t.Errorf("%s: New succeeded", what)
				continue
			}
			for _, w := range append(want, "pgstore: ") {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%s: %q says nothing of %q", what, err, w)
				}
			}
			if strings.ContainsAny(err.Error(), "\n") {
				t.Errorf("%s: %q is no sentence", what, err)
			}
		}
	}
	refused("no schema", &pgstore.Options{Schema: "nowhere"}, "idem store migrate")
	refused("no tables", &pgstore.Options{Schema: b.schema(t), Prefix: "other_"}, "idem store migrate")
	refused("a prefix that is none", &pgstore.Options{Prefix: `x"; DROP TABLE y`}, "prefix")

	schema := "versions"
	o := &pgstore.Options{Schema: schema, SweepEvery: -1, Logger: slog.New(slog.DiscardHandler)}
	if err := pgstore.Migrate(ctx, b.pool, o); err != nil {
		t.Fatal(err)
	}
	set := func(version, compatible int) {
		t.Helper()
		if _, err := b.pool.Exec(ctx, "UPDATE versions.idem_schema SET version = $1, compatible = $2", version, compatible); err != nil {
			t.Fatal(err)
		}
	}
	set(0, 0)
	refused("an older version", o, "version 0", "idem store migrate")
	set(9, 9)
	refused("a newer version", o, "version 9", "newer program")
	if err := pgstore.Migrate(ctx, b.pool, o); err == nil || !strings.Contains(err.Error(), "newer program") {
		t.Errorf("Migrate of a newer version: %v", err)
	}
	// A newer version whose tables this one still works with, while it is rolled out.
	set(9, 1)
	s, err := pgstore.New(ctx, b.pool, o)
	if err != nil {
		t.Errorf("a newer version that is compatible: %v", err)
	} else {
		s.Close()
	}
	if _, err := b.pool.Exec(ctx, "DELETE FROM versions.idem_schema"); err != nil {
		t.Fatal(err)
	}
	refused("a version that is missing", o, "idem store migrate")
}

func TestTrap64AServerThatTakesNoWrites(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	o := pgstore.Options{Schema: b.schema(t)}
	pool, err := pgstore.Connect(context.Background(), b.server.DSN()+"&default_transaction_read_only=on")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if _, err := pgstore.New(t.Context(), pool, &o); err == nil || !strings.Contains(err.Error(), "primary") {
		t.Errorf("New: %v", err)
	}
	if err := pgstore.Migrate(t.Context(), pool, &o); err == nil || !strings.Contains(err.Error(), "primary") {
		t.Errorf("Migrate: %v", err)
	}
	found, err := pgstore.Check(t.Context(), pool, &o)
	if err != nil {
		t.Fatal(err)
	}
	if f := finding(t, found, "transaction_read_only"); f.Severity != driver.SeverityError || f.Found != "read-only" {
		t.Errorf("%+v", f)
	}
	// It was written to when the store was made, and is not any more.
	var s *pgstore.Store
	if s, err = pgstore.Open(t.Context(), b.server.DSN()+"&application_name=demoted&pool_max_conns=1", defaults(o)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Exec(t.Context(), "SET default_transaction_read_only = on"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Claim(t.Context(), request("k")); err == nil || !strings.Contains(err.Error(), "takes no writes") {
		t.Errorf("Claim: %v", err)
	}
	if err := s.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "takes no writes") {
		t.Errorf("Ping: %v", err)
	}
}

// Several programs start at once, and each makes the tables.
func TestMigrateAtOnce(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	o := pgstore.Options{Schema: "at once", Prefix: "p_"}
	errs := make([]error, 8)
	all(len(errs), func(i int) {
		if i%2 == 0 {
			errs[i] = pgstore.Migrate(t.Context(), b.pool, &o)
		} else {
			errs[i] = pgstore.MigrateDB(t.Context(), b.sql, &o)
		}
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	s := b.openIn(t, o)
	grant(t, s, request("k"))
	if err := pgstore.Migrate(t.Context(), b.pool, &o); err != nil {
		t.Errorf("Migrate again: %v", err)
	}
	stateOf(t, s, "k", driver.StateInFlight)
}

// A role that may use the tables and no more is enough for all but Migrate.
func TestRightsThatAreNeeded(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	schema := b.schema(t)
	_, err := b.pool.Exec(t.Context(), fmt.Sprintf(`DROP ROLE IF EXISTS few; CREATE ROLE few LOGIN PASSWORD 'few';
		GRANT USAGE ON SCHEMA %[1]s TO few;
		GRANT SELECT, INSERT, UPDATE, DELETE ON %[1]s.idem_records, %[1]s.idem_attempts TO few;
		GRANT SELECT ON %[1]s.idem_schema TO few;
		GRANT USAGE ON SEQUENCE %[1]s.idem_tokens TO few`, schema))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.pool.Exec(context.Background(), "DROP OWNED BY few; DROP ROLE few") })
	dsn := strings.Replace(b.server.DSN(), "idem:idem@", "few:few@", 1)
	if dsn == b.server.DSN() {
		return // another server's, whose user is another
	}
	s, err := pgstore.Open(t.Context(), dsn, defaults(pgstore.Options{Schema: schema}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for _, st := range steps() {
		var ref driver.Ref
		if st.name != "claim" {
			ref = grant(t, s, request(st.name))
		}
		if err := st.call(s, st.name, ref); err != nil {
			t.Errorf("%s: %v", st.name, err)
		}
	}
	req := txRequest("tx")
	req.CountAttempts = true
	reply, err := s.DoTx(t.Context(), req, func(context.Context, pgx.Tx, driver.Record) (driver.Completion, error) {
		return completion("tx", "r"), nil
	})
	if err != nil || !reply.Ran {
		t.Errorf("DoTx: %v", err)
	}
	if _, err := s.Stats(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := s.Sweep(t.Context(), 10); err != nil {
		t.Error(err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := b.pool.Exec(t.Context(), "REVOKE UPDATE ON "+schema+".idem_records FROM few"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Claim(t.Context(), request("no right")); err == nil || !strings.Contains(err.Error(), "grant it") {
		t.Errorf("Claim without the right: %v", err)
	}
}

// Trap 51: what the server would forget is found and said, and logged once.
func TestTrap51WhatTheServerForgets(t *testing.T) {
	t.Parallel()
	o := &testserver.Options{Settings: map[string]string{
		"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off", "max_connections": "20",
	}}
	b := own(t, o)
	if b == nil {
		return
	}
	b.fresh(t)
	found, err := pgstore.Check(t.Context(), b.pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	dbFound, err := pgstore.CheckDB(t.Context(), b.sql, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range [][]driver.Finding{found, dbFound} {
		for _, subject := range []string{"fsync", "synchronous_commit", "full_page_writes", "autovacuum", "max_connections"} {
			if f := finding(t, found, subject); f.Severity != driver.SeverityWarning || f.Means == "" || f.Remedy == "" {
				t.Errorf("%s: %+v", subject, f)
			}
		}
		if f := finding(t, found, "synchronous_standby_names"); f.Severity != driver.SeverityUnknown || f.Remedy == "" {
			t.Errorf("%+v", f)
		}
		for _, subject := range []string{"server_version", "transaction_read_only", "tables", "tokens"} {
			if f := finding(t, found, subject); f.Severity != driver.SeverityOK || f.Means != "" || f.Remedy != "" {
				t.Errorf("%s: %+v", subject, f)
			}
		}
	}
	if f := finding(t, found, "pooler"); f.Severity != driver.SeverityOK {
		t.Errorf("%+v", f)
	}
	var log bytes.Buffer
	s := b.openIn(t, pgstore.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if s.Describe().Durable {
		t.Error("the store says that it is durable")
	}
	for _, setting := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		if strings.Count(log.String(), "setting="+setting+" ") != 1 {
			t.Errorf("of %s the log says:\n%s", setting, log.String())
		}
	}
	// For one role or database alone, where the server's own is as it should be.
	for _, text := range []string{"ALTER SYSTEM SET synchronous_commit = on", "SELECT pg_reload_conf()", "ALTER ROLE CURRENT_USER SET synchronous_commit = off"} {
		if _, err := b.pool.Exec(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	b.pool.Reset()
	if found, err = pgstore.Check(t.Context(), b.pool, nil); err != nil {
		t.Fatal(err)
	}
	if f := finding(t, found, "synchronous_commit"); f.Found != "off" || f.Severity != driver.SeverityWarning {
		t.Errorf("off for the role: %+v", f)
	}
	// A restored or replicated database whose sequence was left behind.
	grant(t, s, request("k"))
	if _, err := b.pool.Exec(t.Context(), "UPDATE idem_records SET token = 1000; ALTER SEQUENCE idem_tokens RESTART"); err != nil {
		t.Fatal(err)
	}
	if found, err = pgstore.Check(t.Context(), b.pool, nil); err != nil {
		t.Fatal(err)
	}
	if f := finding(t, found, "tokens"); f.Severity != driver.SeverityError || !strings.Contains(f.Remedy, "setval") {
		t.Errorf("%+v", f)
	}
	if _, err := b.pool.Exec(t.Context(), "SELECT setval('idem_tokens', 2000); ALTER SEQUENCE idem_tokens CACHE 32"); err != nil {
		t.Fatal(err)
	}
	if found, err = pgstore.Check(t.Context(), b.pool, nil); err != nil {
		t.Fatal(err)
	}
	if f := finding(t, found, "tokens"); f.Severity != driver.SeverityError || !strings.Contains(f.Remedy, "CACHE 1") {
		t.Errorf("%+v", f)
	}
}

func TestCheckOfTheDefaults(t *testing.T) {
	t.Parallel()
	b := bedOf(t, durable)
	if b == nil {
		return
	}
	s := b.open(t, pgstore.Options{})
	if info := s.Describe(); !info.Durable || !info.Shared || !info.Transactional || info.Name != "postgres" {
		t.Errorf("%+v", info)
	}
	records, _ := s.Tables()
	found, err := pgstore.Check(t.Context(), b.pool, &pgstore.Options{Schema: schemaOf(records)})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if f.Severity > driver.SeverityUnknown || f.Severity == driver.SeverityOK != (f.Means == "") || f.Severity == driver.SeverityOK != (f.Remedy == "") {
			t.Errorf("%+v", f)
		}
	}
	if found, err = pgstore.Check(t.Context(), b.pool, &pgstore.Options{Schema: "nowhere"}); err != nil {
		t.Fatal(err)
	}
	if f := finding(t, found, "tables"); f.Severity != driver.SeverityError || f.Remedy == "" {
		t.Errorf("%+v", f)
	}
}

// No error holds the password, whatever is wrong with the DSN.
func TestNoPasswordInErrors(t *testing.T) {
	t.Parallel()
	for _, dsn := range []string{
		"postgres://idem:hunter2@127.0.0.1:1/idem",
		"postgres://idem:hunter2@127.0.0.1:port/idem",
		"postgres://idem:hunter2@127.0.0.1:99999999/idem",
		"postgres://idem:hunter2@[::1/idem",
		"postgres://idem:hunter2%zz@127.0.0.1/idem",
		"postgres://idem:hunter2/x@127.0.0.1/idem",
		"postgres://idem:hunter2?x@127.0.0.1/idem",
		"postgres://idem:hunter2#x@127.0.0.1/idem",
		"postgres://idem:a:hunter2 @127.0.0.1/idem",
		"postgres://idem:p@hunter2@127.0.0.1:1/idem",
		"postgres://127.0.0.1:1/idem?password=hunter2&sslmode=nonsense",
		"postgres://127.0.0.1:1/idem?password=hunter2&pool_max_conns=x",
		"host=127.0.0.1 port=1 user=idem password=hunter2",
		"host=127.0.0.1 port=x user=idem password=hunter2",
		"host=127.0.0.1 password='hunter2",
		"password=hunter2 nonsense",
		"hunter2",
		"://idem:hunter2@",
	} {
		ctx, cancel := context.WithCancel(t.Context())
		pool, err := pgstore.Connect(ctx, dsn)
		if err == nil {
			pool.Close()
			t.Errorf("%s: Connect succeeded", dsn)
			cancel()
			continue
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			if text := fmt.Sprintf("%v %+v", e, e); strings.Contains(text, "hunter2") {
				t.Errorf("an error holds the password: %s", text)
			}
		}
		if !strings.HasPrefix(err.Error(), "pgstore: ") {
			t.Errorf("%v", err)
		}
		if _, err := pgstore.Open(ctx, dsn, nil); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Open: %v", err)
		}
		cancel()
	}
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	wrong := through(b.server.DSN(), b.server.Addr())
	wrong = strings.Replace(wrong, ":idem@", ":hunter2@", 1)
	if _, err := pgstore.Connect(t.Context(), wrong); wrong != b.server.DSN() && (err == nil || strings.Contains(err.Error(), "hunter2")) {
		t.Errorf("a wrong password: %v", err)
	}
}
