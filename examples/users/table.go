package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"

	_ "github.com/ncruces/go-sqlite3/driver" // the driver "sqlite3", without cgo
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

// AUTOINCREMENT never gives an id a second time: the late retry of a DELETE
// would otherwise take a newer user away. There is no UNIQUE on email on
// purpose: the service relies on idem for that, and the README shows what
// happens without either.
const schema = `CREATE TABLE IF NOT EXISTS users (
	id    INTEGER PRIMARY KEY AUTOINCREMENT,
	name  TEXT NOT NULL,
	email TEXT NOT NULL,
	age   INTEGER NOT NULL
) STRICT`

// table keeps the users in a SQLite file.
type table struct{ db *sql.DB }

// openTable opens the file, and makes it when it is not there.
func openTable(ctx context.Context, file string) (*table, error) {
	name := (&url.URL{
		Scheme: "file", Opaque: (&url.URL{Path: file}).EscapedPath(),
		RawQuery: "_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)&_pragma=synchronous(full)",
	}).String()
	db, err := sql.Open("sqlite3", name)
	if err != nil {
		return nil, fmt.Errorf("users: %w", err)
	}
	// SQLite writes one transaction at a time: with one connection the others
	// wait here, in order, and none is told that the file is busy.
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return nil, errors.Join(fmt.Errorf("users: opening %s: %w", file, err), db.Close())
	}
	return &table{db: db}, nil
}

// Close closes the file.
func (t *table) Close() error { return t.db.Close() }

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
	return scan(t.db.QueryRowContext(ctx,
		"INSERT INTO users (name, email, age) VALUES (?, ?, ?) RETURNING "+columns, u.Name, u.Email, u.Age))
}

// get returns one user, or errNoUser.
func (t *table) get(ctx context.Context, id int64) (user, error) {
	return scan(t.db.QueryRowContext(ctx, "SELECT "+columns+" FROM users WHERE id = ?", id))
}

// list returns the users in the order of their ids; with an email, its users.
func (t *table) list(ctx context.Context, email string) ([]user, error) {
	rows, err := t.db.QueryContext(ctx,
		"SELECT "+columns+" FROM users WHERE ?1 = '' OR email = ?1 ORDER BY id", email)
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
	return scan(t.db.QueryRowContext(ctx,
		"UPDATE users SET name = ?, email = ?, age = ? WHERE id = ? RETURNING "+columns,
		u.Name, u.Email, u.Age, u.ID))
}

// setAge writes the age, or returns errNoUser.
func (t *table) setAge(ctx context.Context, id int64, age int) (user, error) {
	return scan(t.db.QueryRowContext(ctx,
		"UPDATE users SET age = ? WHERE id = ? RETURNING "+columns, age, id))
}

// addAge adds to the age, each time that it is called, or returns errNoUser.
func (t *table) addAge(ctx context.Context, id int64, years int) (user, error) {
	return scan(t.db.QueryRowContext(ctx,
		"UPDATE users SET age = age + ? WHERE id = ? RETURNING "+columns, years, id))
}

// remove deletes a user, or returns errNoUser.
func (t *table) remove(ctx context.Context, id int64) error {
	res, err := t.db.ExecContext(ctx, "DELETE FROM users WHERE id = ?", id)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		return err
	}
	return errNoUser
}
