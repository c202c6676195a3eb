package pgstore

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/idem-go/idem/driver"
)

// settingsText reads what there is to know of a server, in one round trip. What
// an engine of the same protocol does not know is empty.
const settingsText = `SELECT coalesce(nullif($1::text, ''), current_schema(), 'public'),
	current_setting('server_version_num')::int,
	pg_is_in_recovery(),
	current_setting('transaction_read_only'),
	current_setting('default_transaction_isolation'),
	coalesce(current_setting('fsync', true), ''),
	coalesce(current_setting('synchronous_commit', true), ''),
	coalesce(current_setting('full_page_writes', true), ''),
	coalesce(current_setting('synchronous_standby_names', true), ''),
	coalesce(current_setting('max_connections', true), ''),
	coalesce(current_setting('autovacuum', true), '')`

// serverSettings is what a store has to know of its server.
type serverSettings struct {
	schema  string
	version int
	// readOnly says that the server takes no writes, and recovery that it is
	// because it is a standby.
	readOnly, recovery bool
	// readCommitted says that transactions begin in READ COMMITTED, where a
	// statement sees what others have committed before it.
	readCommitted bool
	durable       bool

	isolation, fsync, commit, pages, standbys, connections, autovacuum string
}

func readSettings(ctx context.Context, q querier, schema string) (s serverSettings, err error) {
	var readOnly string
	err = q.query(ctx, statement{settingsText, []any{schema}}, func(scan scanner) error {
		return scan(&s.schema, &s.version, &s.recovery, &readOnly, &s.isolation, &s.fsync, &s.commit, &s.pages,
			&s.standbys, &s.connections, &s.autovacuum)
	})
	if err != nil {
		if ctx.Err() != nil {
			return s, ctx.Err()
		}
		return s, explain(err)
	}
	s.readOnly = s.recovery || readOnly == "on"
	s.readCommitted = s.isolation == "read committed"
	s.durable = s.fsync != "off" && s.commit != "off"
	return s, nil
}

// findings judges the settings.
func (s serverSettings) findings() []driver.Finding {
	var found []driver.Finding
	note := func(bad driver.Severity, subject, value, means, remedy string) {
		if bad == driver.SeverityOK {
			means, remedy = "", ""
		}
		found = append(found, driver.Finding{Severity: bad, Subject: subject, Found: value, Means: means, Remedy: remedy})
	}
	when := func(bad bool, s driver.Severity) driver.Severity {
		if bad {
			return s
		}
		return driver.SeverityOK
	}
	note(when(s.version < oldestServer, driver.SeverityError), "server_version", strconv.Itoa(s.version/10000),
		"The statements need PostgreSQL 13 at least.", "Upgrade the server.")
	kind := "primary"
	if s.recovery {
		kind = "standby"
	} else if s.readOnly {
		kind = "read-only"
	}
	note(when(s.readOnly, driver.SeverityError), "transaction_read_only", kind,
		"The server takes no writes, so that nothing can be claimed.",
		"Connect to the primary (several hosts and target_session_attrs=read-write in the DSN), or set default_transaction_read_only = off.")
	// An engine that has no such setting does not say how it commits.
	setting := func(subject, value string, bad bool, means, remedy string) {
		if value == "" {
			note(driver.SeverityUnknown, subject, "", "The server does not say whether a commit survives a power cut.", "Look into its own documentation.")
			return
		}
		note(when(bad, driver.SeverityWarning), subject, value, means, remedy)
	}
	setting("fsync", s.fsync, s.fsync == "off",
		"A power cut or a crash of the machine can damage the whole database, and forget what was acknowledged.", "Set fsync = on.")
	setting("synchronous_commit", s.commit, s.commit == "off",
		"A crash of the server forgets what was acknowledged in the last moments, about half a second: such work can run twice.",
		"Set synchronous_commit = on, for the server, the database and the role.")
	setting("full_page_writes", s.pages, s.pages == "off",
		"A power cut can leave pages half-written, and damage records.", "Set full_page_writes = on, unless the file system writes pages as a whole.")
	switch {
	case s.standbys == "":
		note(driver.SeverityUnknown, "synchronous_standby_names", "(empty)",
			"Commits do not wait for a standby: if there is one, a failover to it can forget what was acknowledged last.",
			"Where a failover must not forget, name the standbys that commits wait for.")
	case s.commit == "local" || s.commit == "off":
		note(driver.SeverityWarning, "synchronous_standby_names", s.standbys,
			"Commits do not wait for the standby that is named, because of synchronous_commit: a failover can forget what was acknowledged last.",
			"Set synchronous_commit = on.")
	default:
		note(driver.SeverityOK, "synchronous_standby_names", s.standbys, "", "")
	}
	note(when(s.autovacuum == "off", driver.SeverityWarning), "autovacuum", s.autovacuum,
		"Nothing cleans the table of records, which grows with every claim.", "Set autovacuum = on.")
	note(driver.SeverityOK, "default_transaction_isolation", s.isolation, "", "")
	return found
}

// Check looks at the server, the tables and the settings on which the promise
// depends, and says what each means and what to do about it. The error is for a
// server that cannot be asked at all.
func Check(ctx context.Context, pool *pgxpool.Pool, o *Options) ([]driver.Finding, error) {
	d := newPgxDB(pool)
	found, err := check(ctx, d, o)
	if err != nil {
		return nil, err
	}
	pooled, err := d.pooled(ctx)
	if err != nil {
		return nil, explain(err)
	}
	pooler := driver.Finding{Subject: "pooler", Found: "none"}
	if pooled {
		pooler = driver.Finding{
			Severity: driver.SeverityUnknown, Subject: "pooler", Found: "a pooler such as PgBouncer",
			Means:  "Claims that are waited for are polled instead of notified: the promise holds, and waiters take a little longer. Its own settings cannot be read from here.",
			Remedy: "Connect to the server itself, or leave it so; in a transaction mode that loses prepared statements, set default_query_exec_mode=exec.",
		}
	}
	return append(found, pooler), nil
}

// CheckDB is [Check] for applications on database/sql.
func CheckDB(ctx context.Context, db *sql.DB, o *Options) ([]driver.Finding, error) {
	return check(ctx, &sqlDB{db: db}, o)
}

func check(ctx context.Context, db database, o *Options) ([]driver.Finding, error) {
	opts, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s, err := readSettings(ctx, db, opts.Schema)
	if err != nil {
		return nil, err
	}
	found := s.findings()
	n := namesIn(s.schema, opts.Prefix)
	tables := driver.Finding{Subject: "tables", Found: "version " + strconv.Itoa(schemaVersion) + " in schema " + s.schema}
	if err := readVersion(ctx, db, "SELECT version, compatible FROM "+n.migration); err != nil {
		tables = driver.Finding{
			Severity: driver.SeverityError, Subject: "tables", Found: err.Error(),
			Means: "The store cannot be used.", Remedy: "Run 'idem store migrate', with a program of the version that is used.",
		}
	}
	found = append(found, tables)
	if tables.Severity == driver.SeverityOK {
		f, err := tokens(ctx, db, n)
		if err != nil {
			return nil, err
		}
		found = append(found, f)
	}
	if most, err := strconv.Atoi(s.connections); err == nil {
		f := driver.Finding{Subject: "max_connections", Found: fmt.Sprintf("%d, and the pool takes %d", most, db.size())}
		if 2*db.size() > most || db.size() == 0 {
			f.Severity = driver.SeverityWarning
			f.Means = "Two processes with such a pool can take all connections of the server, and claims are refused then."
			f.Remedy = "Make pools smaller (pool_max_conns), or max_connections larger; the store needs few connections."
		}
		found = append(found, f)
	}
	return found, nil
}

// tokens looks whether the sequence of tokens is ahead of the newest records,
// which a restored or replicated database may have forgotten to do.
func tokens(ctx context.Context, q querier, n names) (driver.Finding, error) {
	f := driver.Finding{Subject: "tokens", Found: "ahead of the records"}
	var ahead, cache bool
	text := "SELECT (SELECT last_value FROM " + n.tokens + ") >= coalesce((SELECT max(token) FROM (SELECT token FROM " + n.records +
		" ORDER BY kind DESC, due DESC LIMIT 1000) r), 0), (SELECT seqcache FROM pg_sequence WHERE seqrelid = $1::regclass) = 1"
	err := q.query(ctx, statement{text, []any{n.tokens}}, func(scan scanner) error { return scan(&ahead, &cache) })
	switch {
	case err != nil:
		return f, explain(err)
	case !ahead:
		return driver.Finding{
			Severity: driver.SeverityError, Subject: "tokens", Found: "behind the records",
			Means:  "Claims could be granted tokens that were granted before, so that an old owner would not be told from a new one. Logical replication leaves sequences behind.",
			Remedy: "Set the sequence ahead: SELECT setval('" + n.tokens + "', (SELECT max(token) FROM " + n.records + ") + 1000000).",
		}, nil
	case !cache:
		return driver.Finding{
			Severity: driver.SeverityError, Subject: "tokens", Found: "a sequence that sessions take numbers ahead of",
			Means:  "Claims are granted tokens out of order, so that an old owner would not be told from a new one.",
			Remedy: "ALTER SEQUENCE " + n.tokens + " CACHE 1.",
		}, nil
	}
	return f, nil
}
