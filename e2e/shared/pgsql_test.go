package shared

import (
	"database/sql"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// openPostgresSQL opens PostgreSQL as an application on database/sql does.
func openPostgresSQL(dsn string, conns int) (*sql.DB, error) {
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}
