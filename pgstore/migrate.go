package pgstore

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/idem-go/idem/driver"
)

// schemaVersion is the version of the tables that this package works with.
// compatibleWith is the first version of the package's whose statements work with
// the tables as they are now.
const (
	schemaVersion  = 1
	compatibleWith = 1
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate makes the store's tables, or brings them up to this version. It does
// nothing where they are, and waits for another Migrate that runs at once. It
// only goes forward; older programs go on while it runs and afterwards, unless it
// says that they cannot. It needs the right to create tables in the schema, and
// to create the schema where it does not exist.
func Migrate(ctx context.Context, pool *pgxpool.Pool, o *Options) error {
	d := newPgxDB(pool)
	return migrate(ctx, d, d, o)
}

// MigrateDB is [Migrate] for applications on database/sql.
func MigrateDB(ctx context.Context, db *sql.DB, o *Options) error {
	d := &sqlDB{db: db}
	return migrate(ctx, d, d, o)
}

func migrate[Tx any](ctx context.Context, db database, b beginner[Tx], o *Options) error {
	opts, err := o.withDefaults()
	if err != nil {
		return err
	}
	settings, err := readSettings(ctx, db, opts.Schema)
	if err != nil {
		return err
	}
	if settings.readOnly {
		return explain(errReadOnly)
	}
	if settings.version < oldestServer {
		return errOldServer(settings.version)
	}
	n := namesIn(settings.schema, opts.Prefix)
	lock := fnv.New64a()
	lock.Write([]byte("idem migrate " + n.records))
	first := statement{"SELECT pg_advisory_xact_lock($1)::text", []any{int64(lock.Sum64())}}
	ignore := func(scan scanner) error {
		var s string
		return scan(&s)
	}
	tx, err := b.begin(ctx, first, false, ignore)
	if err != nil {
		return explain(err)
	}
	defer tx.rollback()
	q := b.in(tx.tx())
	steps, err := pending(ctx, q, n, opts)
	if err != nil {
		return err
	}
	for _, text := range steps {
		if err := q.query(ctx, statement{text: text}, func(scanner) error { return nil }); err != nil {
			return explain(err)
		}
	}
	if err := tx.commit(ctx, statement{"SELECT 1", nil}); err != nil {
		return explain(err)
	}
	return nil
}

// pending returns the statements that bring the tables to this version.
func pending(ctx context.Context, q querier, n names, opts Options) ([]string, error) {
	var there, schema bool
	err := q.query(ctx, statement{
		"SELECT to_regclass($1) IS NOT NULL, EXISTS (SELECT FROM pg_namespace WHERE nspname = $2)", []any{n.migration, n.schema},
	}, func(scan scanner) error { return scan(&there, &schema) })
	if err != nil {
		return nil, explain(err)
	}
	var steps []string
	version, compatible := 0, 0
	switch {
	case there:
		text := "SELECT version, compatible FROM " + n.migration
		if err := q.query(ctx, statement{text: text}, func(scan scanner) error { return scan(&version, &compatible) }); err != nil {
			return nil, explain(err)
		}
	case !schema:
		steps = append(steps, "CREATE SCHEMA "+quote(n.schema))
	}
	if version > schemaVersion {
		return nil, errNewSchema(version)
	}
	if version == schemaVersion {
		return nil, nil
	}
	if version == 0 {
		steps = append(steps, "CREATE TABLE "+n.migration+" (version integer NOT NULL, compatible integer NOT NULL, one boolean PRIMARY KEY DEFAULT true CHECK (one))")
		steps = append(steps, "INSERT INTO "+n.migration+" (version, compatible) VALUES (0, 0)")
	}
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	for i, name := range files {
		if i < version {
			continue
		}
		b, err := migrations.ReadFile(name)
		if err != nil {
			return nil, err
		}
		steps = append(steps, split(n.fill(string(b), opts))...)
		if i == 0 {
			steps = append(steps, n.parts(opts)...)
		}
	}
	return append(steps, fmt.Sprintf("UPDATE %s SET version = %d, compatible = %d", n.migration, schemaVersion, compatibleWith)), nil
}

func (n names) fill(text string, opts Options) string {
	partitioned := ""
	if opts.Partitions > 0 {
		partitioned = " PARTITION BY HASH (key)"
	}
	return strings.NewReplacer(
		"{records}", n.records, "{tokens}", n.tokens, "{attempts}", n.attempts, "{partitioned}", partitioned,
		"{due}", quote(n.prefix+"records_due"), "{attemptsdue}", quote(n.prefix+"attempts_due"),
	).Replace(text)
}

// split parts a file into its statements.
func split(text string) []string {
	var lines, statements []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "--") {
			lines = append(lines, line)
		}
	}
	for s := range strings.SplitSeq(strings.Join(lines, ""), ";\n") {
		if s = strings.TrimSpace(s); s != "" {
			statements = append(statements, s)
		}
	}
	return statements
}

// settled are settings of a table that lives from updates. Each completion
// leaves its claim's version behind, so the table is cleaned when a twentieth of
// it is that, rather than a fifth; and it is not made shorter, see parts.
const settled = "autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_limit = 2000, vacuum_truncate = false"

// parts makes the partitions, and settles the tables that hold rows.
//
// A plan that reads a table as a whole is right while it has a few pages, and
// the server may keep that plan while the table grows. So each begins with some
// pages of rows that are dropped at once, and keeps its pages: then the index is
// always the better way to a key.
func (n names) parts(opts Options) []string {
	var steps []string
	tables := []string{n.records}
	if opts.Partitions > 0 {
		tables = nil
		for i := range opts.Partitions {
			part := quote(n.schema) + "." + quote(n.prefix+"records_"+strconv.Itoa(i))
			steps = append(steps, fmt.Sprintf("CREATE TABLE %s PARTITION OF %s FOR VALUES WITH (MODULUS %d, REMAINDER %d)", part, n.records, opts.Partitions, i))
			tables = append(tables, part)
		}
	}
	for _, t := range tables {
		steps = append(steps, "ALTER TABLE "+t+" SET ("+settled+")")
	}
	const pages = 24
	steps = append(steps,
		fmt.Sprintf("INSERT INTO %s (key, format, kind, token, attempt, since, due, tombstone, body) "+
			"SELECT sha256(i::text::bytea), %d, %d, 1, 0, 0, 0, 0, convert_to(repeat('x', 1800), 'UTF8') FROM generate_series(1, %d) i",
			n.records, format, forgotten, 4*pages*len(tables)),
		"DELETE FROM "+n.records)
	return steps
}

// readVersion returns an error unless the tables are there, and of a version
// that this package works with.
func readVersion(ctx context.Context, q querier, text string) error {
	version, compatible, found := 0, 0, false
	err := q.query(ctx, statement{text: text}, func(scan scanner) error {
		found = true
		return scan(&version, &compatible)
	})
	switch {
	case err != nil:
		return explain(err)
	case !found:
		return errors.New("pgstore: the version of the tables is missing; make them with 'idem store migrate'")
	case version < schemaVersion:
		return fmt.Errorf("pgstore: the tables are of version %d and this program needs %d; bring them up with 'idem store migrate'", version, schemaVersion)
	case version > schemaVersion && compatible > schemaVersion:
		return errNewSchema(version)
	}
	return nil
}

func (r *records) readable(ctx context.Context) error {
	return readVersion(ctx, r.db, r.text.version)
}

func errNewSchema(version int) error {
	return fmt.Errorf("pgstore: the tables are of version %d and this program knows %d; use a newer program", version, schemaVersion)
}

// oldestServer is PostgreSQL 13.
const oldestServer = 130000

func errOldServer(version int) error {
	return fmt.Errorf("pgstore: the server is of version %d and has to be 13 at least; upgrade it: %w", version/10000, driver.ErrInvalid)
}
