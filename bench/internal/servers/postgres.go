package servers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/bench/internal/stores"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/pgstore"
)

func postgres(ctx context.Context, s *Servers, o Options) (all []Comparison, err error) {
	pool, err := pgstore.Connect(ctx, s.Postgres.DSN())
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	for _, text := range []string{
		`CREATE TABLE bare (key bytea PRIMARY KEY, state smallint NOT NULL, token bigint NOT NULL, lease timestamptz NOT NULL,
			fingerprint bytea NOT NULL, scope text NOT NULL, id text NOT NULL, result bytea)`,
		`CREATE SEQUENCE bare_tokens`,
		`CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL)`,
		`INSERT INTO accounts SELECT n, 0 FROM generate_series(0, 9999) n`,
		`CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account bigint NOT NULL, item bytea NOT NULL)`,
		`CREATE SCHEMA few`, `CREATE SCHEMA many`,
	} {
		if _, err := pool.Exec(ctx, text); err != nil {
			return nil, err
		}
	}
	store, closeStore, err := openPostgres(ctx, pool, "")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeStore()) }()
	bare := &barePostgres{pool}
	for _, c := range []Comparison{{Callers: 1, AtLeast: 1 / 1.1}, {Callers: 64}, {Callers: 256, AtLeast: 3}} {
		c.Name, c.Peer = "PostgreSQL, claim and completion", "one statement each on a pool"
		c, err := o.compare(ctx, c, stores.Driver(store), bare)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	guard := idem.NewTx(store, nil)
	defer func() { err = errors.Join(err, guard.Close(ctx)) }()
	for _, callers := range []int{1, 16} {
		c, err := o.compare(ctx, Comparison{
			Name: "PostgreSQL, DoTx", Peer: "the business transaction alone", Callers: callers, AtLeast: 1 / 1.4,
		}, &postgresTx{guard}, &bareTx{pool})
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	few, closeFew, err := openPostgres(ctx, pool, "few")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeFew()) }()
	many, closeMany, err := openPostgres(ctx, pool, "many")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeMany()) }()
	c, err := o.held(ctx, "PostgreSQL", stores.Driver(few), stores.Driver(many))
	return append(all, c), err
}

func openPostgres(ctx context.Context, pool *pgxpool.Pool, schema string) (*pgstore.Store, func() error, error) {
	opts := &pgstore.Options{Schema: schema}
	if err := pgstore.Migrate(ctx, pool, opts); err != nil {
		return nil, nil, err
	}
	s, err := pgstore.New(ctx, pool, opts)
	if err != nil {
		return nil, nil, err
	}
	return s, s.Close, nil
}

// barePostgres is what one would write by hand: a statement for the claim and
// one for the result, each on a connection of the pool's.
type barePostgres struct{ pool *pgxpool.Pool }

// Pair implements stores.Pairs.
func (b *barePostgres) Pair(ctx context.Context, n uint64, result []byte) error {
	id := fmt.Sprintf("8e03978e-40d5-43e8-bc93-%012x", n)
	key := driver.KeyOf("bare", id)
	var token int64
	err := b.pool.QueryRow(ctx, `INSERT INTO bare (key, state, token, lease, fingerprint, scope, id)
		VALUES ($1, 1, nextval('bare_tokens'), now() + interval '30 s', $2, $3, $4) ON CONFLICT (key) DO NOTHING RETURNING token`,
		key[:], key[:], "127.0.0.1/anonymous", id).Scan(&token)
	if err != nil {
		return err
	}
	tag, err := b.pool.Exec(ctx, `UPDATE bare SET state = 2, lease = now() + interval '24 h', result = $3 WHERE key = $1 AND token = $2 AND state = 1`,
		key[:], token, result)
	if err == nil && tag.RowsAffected() != 1 {
		err = errors.New("a claim is gone")
	}
	return err
}

// business is a transaction as an application has it: an order, and the account
// that pays for it.
func business(ctx context.Context, tx pgx.Tx, n uint64, item []byte) error {
	if _, err := tx.Exec(ctx, `UPDATE accounts SET balance = balance - 1 WHERE id = $1`, int64(n%10_000)); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `INSERT INTO orders (account, item) VALUES ($1, $2)`, int64(n%10_000), item)
	return err
}

// bareTx is the business transaction alone.
type bareTx struct{ pool *pgxpool.Pool }

// Pair implements stores.Pairs.
func (b *bareTx) Pair(ctx context.Context, n uint64, result []byte) error {
	tx, err := b.pool.Begin(ctx)
	if err != nil {
		return err
	}
	if err := business(ctx, tx, n, result); err != nil {
		return errors.Join(err, tx.Rollback(ctx))
	}
	return tx.Commit(ctx)
}

// postgresTx is the business transaction with its record.
type postgresTx struct{ guard *idem.TxGuard[pgx.Tx] }

// Pair implements stores.Pairs.
func (p *postgresTx) Pair(ctx context.Context, n uint64, result []byte) error {
	_, err := idem.DoTx(ctx, p.guard, txRequest(n), func(ctx context.Context, tx pgx.Tx) (string, error) {
		return "done", business(ctx, tx, n, result)
	})
	return err
}

func txRequest(n uint64) idem.Request {
	id := fmt.Sprintf("8e03978e-40d5-43e8-bc93-%012x-%x", n, time.Now().UnixNano())
	return idem.Request{Key: idem.Key{Scope: "orders", ID: id}, Fingerprint: idem.Fingerprint{Rule: 1, Sum: driver.KeyOf("", id)}}
}
