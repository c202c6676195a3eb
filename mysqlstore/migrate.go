package mysqlstore

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

//go:embed migrations/*.sql
var migrations embed.FS

const (
	// schemaVersion is the version of the tables that this program makes; each
	// version has a file of its number.
	schemaVersion = 1
	// schemaCompatible is the oldest version that a program must know to use them.
	schemaCompatible = 1
	// migrateWait is how long another migration is waited for, in seconds.
	migrateWait = 60
)

// Migrate makes the tables, or brings those of an older version up to date, in
// the database of db. Nothing is ever taken back. It may run twice, by two at
// once, and while programs use the tables; a migration that broke off is gone on
// with. Tables of a newer version are left as they are, with an error.
// It needs the privileges CREATE and ALTER, which the store itself does not.
func Migrate(ctx context.Context, db *sql.DB, o *Options) error {
	opts, err := o.filled()
	if err != nil {
		return err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return unanswered(ctx, err)
	}
	defer func() { _ = conn.Close() }()
	if err := migrate(ctx, conn, opts.Prefix); err != nil {
		return err
	}
	return nil
}

func migrate(ctx context.Context, conn *sql.Conn, prefix string) (err error) {
	var database sql.NullString
	if err := conn.QueryRowContext(ctx, `SELECT DATABASE()`).Scan(&database); err != nil {
		return unanswered(ctx, err)
	}
	if !database.Valid {
		return errors.New("mysqlstore: the connection has no database; name one in the DSN")
	}
	sum := sha256.Sum256([]byte(database.String + "\x00" + prefix))
	turn := "idem migrate " + hex.EncodeToString(sum[:8])
	var got sql.NullInt64
	if err := conn.QueryRowContext(ctx, `SELECT GET_LOCK(?, ?)`, turn, migrateWait).Scan(&got); err != nil {
		return unanswered(ctx, err)
	}
	if got.Int64 != 1 {
		return errors.New("mysqlstore: another migration has been running for a minute; try again when it has ended")
	}
	defer func() {
		if _, e := conn.ExecContext(context.WithoutCancel(ctx), `DO RELEASE_LOCK(?)`, turn); e != nil && err == nil {
			err = explained(e)
		}
	}()
	schema := "`" + prefix + "schema`"
	if _, err := conn.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS `+schema+
		` (one TINYINT NOT NULL PRIMARY KEY, version INT NOT NULL, compatible INT NOT NULL) ENGINE=InnoDB`); err != nil {
		return unanswered(ctx, err)
	}
	version := 0
	err = conn.QueryRowContext(ctx, `SELECT version FROM `+schema).Scan(&version)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return unanswered(ctx, err)
	}
	if version > schemaVersion {
		return fmt.Errorf("mysqlstore: the tables have version %d, which this program, of version %d, does not know; use a newer program", version, schemaVersion)
	}
	for v := version + 1; v <= schemaVersion; v++ {
		text, err := migrations.ReadFile(fmt.Sprintf("migrations/%d.sql", v))
		if err != nil {
			return fmt.Errorf("mysqlstore: %w", err)
		}
		for statement := range strings.SplitSeq(strings.ReplaceAll(string(text), "{prefix}", prefix), ";\n") {
			if strings.TrimSpace(statement) == "" {
				continue
			}
			if _, err := conn.ExecContext(ctx, statement); err != nil {
				return unanswered(ctx, err)
			}
		}
		if _, err := conn.ExecContext(ctx, `REPLACE INTO `+schema+fmt.Sprintf(` VALUES (1, %d, %d)`, v, schemaCompatible)); err != nil {
			return unanswered(ctx, err)
		}
	}
	return nil
}
