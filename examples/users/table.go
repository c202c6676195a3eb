package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	_ "github.com/ncruces/go-sqlite3/driver" // the driver "sqlite3", without cgo

	"github.com/idem-go/idem"
)

// user is a row of the table, and what the service answers with.
type user struct {
	ID    int64  `json:"id"`
	Name  string `json:"name"`
	Email string `json:"email"`
	Age   int    `json:"age"`
}

// errNoUser: there is no user of that id.
var errNoUser = errors.New("users: no such user")

// The tables never give an id a second time: the late retry of a DELETE would
// otherwise take a newer user away. There is no UNIQUE on email on purpose: the
// service relies on idem for that, and the README shows what happens without
// either.
const (
	sqliteSchema = `CREATE TABLE IF NOT EXISTS users (
	id    INTEGER PRIMARY KEY AUTOINCREMENT,
	name  TEXT NOT NULL,
	email TEXT NOT NULL,
	age   INTEGER NOT NULL
) STRICT`
	postgresSchema = `CREATE TABLE IF NOT EXISTS users (
	id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name  text NOT NULL,
	email text NOT NULL,
	age   bigint NOT NULL
)`
)

// table keeps the users in a SQLite file or in a PostgreSQL database.
type table struct {
	db       *sql.DB
	postgres bool
}

// openTable opens a SQLite file, or the PostgreSQL database that a
// postgres:// URL names, and makes the table when it is not there.
func openTable(ctx context.Context, name string) (*table, error) {
	if strings.HasPrefix(name, "postgres://") {
		return openPostgres(ctx, name)
	}
	source := (&url.URL{
		Scheme: "file", Opaque: (&url.URL{Path: name}).EscapedPath(),
		RawQuery: "_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)&_pragma=synchronous(full)",
	}).String()
	db, err := sql.Open("sqlite3", source)
	if err != nil {
		return nil, fmt.Errorf("users: %w", err)
	}
	// SQLite writes one transaction at a time: with one connection the others
	// wait here, in order, and none is told that the file is busy.
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, sqliteSchema); err != nil {
		return nil, errors.Join(fmt.Errorf("users: opening %s: %w", name, err), db.Close())
	}
	return &table{db: db}, nil
}

func openPostgres(ctx context.Context, dsn string) (*table, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, errors.New("users: --db is no URL of a PostgreSQL database; write postgres://USER:PASSWORD@HOST:PORT/NAME")
	}
	db := stdlib.OpenDB(*config)
	db.SetMaxOpenConns(16)
	if _, err := db.ExecContext(ctx, postgresSchema); err != nil {
		return nil, errors.Join(fmt.Errorf("users: opening the database at %s: %w", config.Host, err), db.Close())
	}
	return &table{db: db, postgres: true}, nil
}

// Close closes the file, or the connections.
func (t *table) Close() error { return t.db.Close() }

// queries is what a database and a transaction have in common.
type queries interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// in returns the transaction that idem runs the request in, where it does, and
// otherwise the database itself.
func (t *table) in(ctx context.Context) queries {
	if tx, ok := idem.TxFromContext[*sql.Tx](ctx); ok {
		return tx
	}
	return t.db
}

const columns = "id, name, email, age"

func scan(row interface{ Scan(...any) error }) (user, error) {
	var u user
	err := row.Scan(&u.ID, &u.Name, &u.Email, &u.Age)
	if errors.Is(err, sql.ErrNoRows) {
		return user{}, errNoUser
	}
	return u, err
}

// add makes a row, a new one each time that it is called.
func (t *table) add(ctx context.Context, u user) (user, error) {
	return scan(t.in(ctx).QueryRowContext(ctx,
		"INSERT INTO users (name, email, age) VALUES ($1, $2, $3) RETURNING "+columns, u.Name, u.Email, u.Age))
}

// get returns one user, or errNoUser.
func (t *table) get(ctx context.Context, id int64) (user, error) {
	return scan(t.in(ctx).QueryRowContext(ctx, "SELECT "+columns+" FROM users WHERE id = $1", id))
}

// list returns the users in the order of their ids; with an email, its users.
func (t *table) list(ctx context.Context, email string) ([]user, error) {
	rows, err := t.in(ctx).QueryContext(ctx,
		"SELECT "+columns+" FROM users WHERE CAST($1 AS TEXT) = '' OR email = $1 ORDER BY id", email)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	users := []user{}
	for rows.Next() {
		u, err := scan(rows)
		if err != nil {
			return nil, err
		}
		users = append(users, u)
	}
	return users, rows.Err()
}

// replace writes all of a user, or returns errNoUser.
func (t *table) replace(ctx context.Context, u user) (user, error) {
	return scan(t.in(ctx).QueryRowContext(ctx,
		"UPDATE users SET name = $1, email = $2, age = $3 WHERE id = $4 RETURNING "+columns,
		u.Name, u.Email, u.Age, u.ID))
}

// setAge writes the age, or returns errNoUser.
func (t *table) setAge(ctx context.Context, id int64, age int) (user, error) {
	return scan(t.in(ctx).QueryRowContext(ctx,
		"UPDATE users SET age = $1 WHERE id = $2 RETURNING "+columns, age, id))
}

// addAge adds to the age, each time that it is called, or returns errNoUser.
func (t *table) addAge(ctx context.Context, id int64, years int) (user, error) {
	return scan(t.in(ctx).QueryRowContext(ctx,
		"UPDATE users SET age = age + $1 WHERE id = $2 RETURNING "+columns, years, id))
}

// remove deletes a user, or returns errNoUser.
func (t *table) remove(ctx context.Context, id int64) error {
	res, err := t.in(ctx).ExecContext(ctx, "DELETE FROM users WHERE id = $1", id)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		return err
	}
	return errNoUser
}
