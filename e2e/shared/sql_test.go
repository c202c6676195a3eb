package shared

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
)

// sqlCalls are what *sql.DB and *sql.Tx have in common.
type sqlCalls interface {
	ExecContext(ctx context.Context, text string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error)
}

// sqlQuerier is a querier of database/sql. Numbered says that the arguments of the engine's
// statements have numbers.
type sqlQuerier struct {
	sqlCalls
	numbered bool
}

func (q sqlQuerier) text(text string) string {
	if !q.numbered {
		return text
	}
	return numbered(text)
}

func (q sqlQuerier) exec(ctx context.Context, text string, args ...any) error {
	_, err := q.ExecContext(ctx, q.text(text), args...)
	return err
}

func (q sqlQuerier) query(ctx context.Context, text string, args ...any) (all [][]string, err error) {
	rows, err := q.QueryContext(ctx, q.text(text), args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		row := make([]string, len(columns))
		into := make([]any, len(columns))
		for i := range row {
			into[i] = &row[i]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return all, rows.Err()
}

// sqlStore opens a store over database/sql.
func sqlStore(s driver.TxStore[*sql.Tx], db *sql.DB, c *config, numbered bool, closeStore func() error) *opened {
	g := idem.NewTx(s, c.options())
	tx := &transactions[*sql.Tx]{
		querier: sqlQuerier{db, numbered}, store: s, guard: g,
		begin:    func(ctx context.Context) (*sql.Tx, error) { return db.BeginTx(ctx, nil) },
		commit:   func(_ context.Context, tx *sql.Tx) error { return tx.Commit() },
		rollback: func(_ context.Context, tx *sql.Tx) error { return tx.Rollback() },
		in:       func(tx *sql.Tx) querier { return sqlQuerier{tx, numbered} },
	}
	return &opened{store: s, guard: g.Guard(), tx: tx, close: closeStore}
}

// numbered puts $1, $2 … in the place of question marks.
func numbered(text string) string {
	var b strings.Builder
	n := 0
	for _, c := range text {
		if c == '?' {
			n++
			b.WriteString("$" + strconv.Itoa(n))
			continue
		}
		b.WriteRune(c)
	}
	return b.String()
}

// pgxCalls are what a pool and a pgx.Tx have in common.
type pgxCalls interface {
	Exec(ctx context.Context, text string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, text string, args ...any) (pgx.Rows, error)
}

type pgxQuerier struct{ pgxCalls }

func (q pgxQuerier) exec(ctx context.Context, text string, args ...any) error {
	_, err := q.Exec(ctx, numbered(text), args...)
	return err
}

func (q pgxQuerier) query(ctx context.Context, text string, args ...any) ([][]string, error) {
	rows, err := q.Query(ctx, numbered(text), args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]string, error) {
		values, err := row.Values()
		if err != nil {
			return nil, err
		}
		texts := make([]string, len(values))
		for i, v := range values {
			texts[i] = fmt.Sprint(v)
		}
		return texts, nil
	})
}
