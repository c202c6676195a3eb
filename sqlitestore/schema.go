package sqlitestore

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"strings"
)

//go:embed migrations/*.sql
var migrations embed.FS

// schemaFormat is the version of the schema that this program works with: the
// number of migrations.
const schemaFormat = 1

// oldestSQLite is the first version with STRICT tables, RETURNING and upserts.
const oldestSQLite = 3_037_000

func checkFormat(format int64) error {
	switch {
	case format < schemaFormat:
		return fmt.Errorf("sqlitestore: the schema has the version %d, this program needs %d; run idem store migrate, or call Migrate", format, schemaFormat)
	case format > schemaFormat:
		return fmt.Errorf("sqlitestore: the schema has the version %d, this program knows %d; a newer version of it is needed", format, schemaFormat)
	}
	return nil
}

// errNoSchema: the tables are not there.
var errNoSchema = errors.New("sqlitestore: the database has no tables of idem's; run idem store migrate, or call Migrate")

// Migrate makes the store's tables in the application's database, or brings those
// of an older version up to date, each version in a transaction of its own. Where
// they are up to date it changes nothing. Two that run at the same time do it once,
// and so does one that runs while the application writes. Tables of a newer version
// are an error. Of the options it uses Prefix and Logger.
func Migrate(ctx context.Context, db *sql.DB, o *Options) error {
	set, err := o.settings()
	if err != nil {
		return err
	}
	if err := checkVersion(ctx, db); err != nil {
		return err
	}
	for try := 0; ; try++ {
		err := migrate(ctx, db, &set)
		if err == nil {
			return nil
		}
		if !isBusy(err) || pause(ctx, try) != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
	}
}

func migrate(ctx context.Context, db *sql.DB, set *settings) (err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return explain(err)
	}
	defer func() { _ = conn.Close() }() // it goes back to the pool
	for {
		format, err := format(ctx, conn, set)
		if err != nil {
			return err
		}
		if format == schemaFormat {
			return nil
		}
		if format > schemaFormat {
			return checkFormat(format)
		}
		if err := step(ctx, conn, set, format); err != nil {
			return err
		}
	}
}

// step brings the schema from one version to the next, unless another has done so
// since.
func step(ctx context.Context, conn *sql.Conn, set *settings, from int64) (err error) {
	set.gap("migrate")
	// The pool's own transactions need not take the lock before they read.
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return explain(err)
	}
	defer func() {
		if err != nil {
			_, _ = conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK") // the first error is the one that counts
		}
	}()
	now, err := format(ctx, conn, set)
	if err != nil {
		return err
	}
	if now == from {
		if err := migrateTo(ctx, conn, set, from+1); err != nil {
			return err
		}
	}
	_, err = conn.ExecContext(ctx, "COMMIT")
	return explain(err)
}

func migrateTo(ctx context.Context, conn *sql.Conn, set *settings, to int64) error {
	text, err := migrations.ReadFile(fmt.Sprintf("migrations/%04d.sql", to))
	if err != nil {
		return err
	}
	for _, statement := range statementsOf(string(text)) {
		if _, err := conn.ExecContext(ctx, set.sql(statement)); err != nil {
			return explain(err)
		}
	}
	src := set.sources
	if to == 1 {
		wall := src.wall()
		_, err = conn.ExecContext(ctx, set.sql(`INSERT INTO idem_meta (id, format, clock, base, time, wall) VALUES (1, 1, ?, ?, ?, ?)`),
			src.ticks.id, wall-src.ticks.now(), wall, wall)
	} else {
		_, err = conn.ExecContext(ctx, set.sql(`UPDATE idem_meta SET format = ? WHERE id = 1`), to)
	}
	return explain(err)
}

// statementsOf takes a file of SQL apart: a statement ends with a semicolon at the
// end of a line that is not indented.
func statementsOf(text string) []string {
	var all []string
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(line)
		if end := strings.TrimRight(line, "\n"); strings.HasSuffix(end, ";") && !strings.HasPrefix(end, "\t") {
			all = append(all, b.String())
			b.Reset()
		}
	}
	return all
}

// querier is a pool, a connection or a transaction.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// format is the version of the schema that is there, 0 for none.
func format(ctx context.Context, q querier, set *settings) (int64, error) {
	var n int64
	err := q.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND lower(name) = lower(?)`, set.Prefix+"meta").Scan(&n)
	if err != nil || n == 0 {
		return 0, explain(err)
	}
	err = q.QueryRowContext(ctx, set.sql(`SELECT format FROM idem_meta WHERE id = 1`)).Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("sqlitestore: the table %smeta has lost its row; restore the database from a backup", set.Prefix)
	}
	return n, explain(err)
}

// checkVersion looks whether it is a SQLite that has what the store uses.
func checkVersion(ctx context.Context, q querier) error {
	text, n, err := version(ctx, q)
	if err != nil {
		return err
	}
	if n < oldestSQLite {
		return fmt.Errorf("sqlitestore: this is SQLite %s, and 3.37 is needed; use a newer version of the driver", text)
	}
	return nil
}

func version(ctx context.Context, q querier) (text string, number int, err error) {
	if err := q.QueryRowContext(ctx, "SELECT sqlite_version()").Scan(&text); err != nil {
		return "", 0, explain(err)
	}
	var major, minor, patch int
	if _, err := fmt.Sscanf(text, "%d.%d.%d", &major, &minor, &patch); err != nil {
		return "", 0, fmt.Errorf("sqlitestore: the version of SQLite cannot be read: %w", err)
	}
	return text, major*1_000_000 + minor*1_000 + patch, nil
}
