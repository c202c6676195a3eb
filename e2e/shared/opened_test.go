package shared

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
)

// config says how a process uses a store. It is what a worker is told at its start.
type config struct {
	// Store is the store's name in the table of stores; DSN is what it opens.
	Store, DSN string
	// Scope is that of the keys, and of the rows that the work writes.
	Scope string
	// Ledger is the file of the effects that no transaction holds.
	Ledger string
	// The rest is idem's own; 0 takes its default.
	Lease, Wait, StoreTimeout, SaveWait time.Duration
	Retry, CountAttempts                bool
	// SweepEvery is the store's; 0 is never.
	SweepEvery time.Duration
	// Conns bounds the connections to PostgreSQL, each of which costs a process there and
	// a computation of some milliseconds here; 0 is as many as usual.
	Conns int
	// Disk is a folder for which a worker mounts a file system of DiskSize bytes that
	// only it sees; Migrate lets it make the schema.
	Disk     string
	DiskSize int
	Migrate  bool
}

func (c *config) options() *idem.Options {
	o := &idem.Options{StoreTimeout: c.StoreTimeout, Logger: slog.New(slog.DiscardHandler)}
	o.Policy = idem.Policy{Lease: c.Lease, Wait: c.Wait, SaveWait: c.SaveWait, CountAttempts: c.CountAttempts}
	if c.Retry {
		o.Policy.Unknown = idem.RetryUnknown
	}
	return o
}

// sweepEvery is never unless it is said: then no sweep hides that what is over must
// read as over.
func (c *config) sweepEvery() time.Duration {
	if c.SweepEvery == 0 {
		return -1
	}
	return c.SweepEvery
}

// opened is a store that a process has open, with a guard over it.
type opened struct {
	store driver.Store
	guard *idem.Guard
	tx    txStore // nil where there are no transactions
	close func() error
}

// end closes guard and store. Results that are still being saved are waited for.
func (o *opened) end(ctx context.Context) error {
	return errors.Join(o.guard.Close(ctx), o.close())
}

// leased is a store without transactions.
func leased(s driver.Store, c *config, closeStore func() error) *opened {
	return &opened{store: s, guard: idem.New(s, c.options()), close: closeStore}
}

// querier runs statements, which have a question mark for each argument.
type querier interface {
	exec(ctx context.Context, text string, args ...any) error
	// query returns each value as text.
	query(ctx context.Context, text string, args ...any) ([][]string, error)
}

// txStore is a store with transactions, whatever their type. Its own statements
// run outside of the store's transactions.
type txStore interface {
	querier
	// do is idem.DoTx.
	do(ctx context.Context, req idem.Request, work func(context.Context, querier) (string, error)) (idem.Outcome[string], error)
	// complete is idem.CompleteTx in a transaction with rows, and its commit. An error
	// that is errWork says that nothing was committed; the claim is held then.
	complete(ctx context.Context, c *idem.Claim, value string, rows func(context.Context, querier) error) error
	// completeRaw is the store's CompleteTx, and the commit where it succeeds.
	completeRaw(ctx context.Context, ref driver.Ref, c driver.Completion, rows func(context.Context, querier) error) error
}

// transactions is a txStore over transactions of the type Tx.
type transactions[Tx any] struct {
	querier
	store            driver.TxStore[Tx]
	guard            *idem.TxGuard[Tx]
	begin            func(context.Context) (Tx, error)
	commit, rollback func(context.Context, Tx) error
	in               func(Tx) querier
}

func (s *transactions[Tx]) do(ctx context.Context, req idem.Request, work func(context.Context, querier) (string, error)) (idem.Outcome[string], error) {
	return idem.DoTxOutcome(ctx, s.guard, req, func(ctx context.Context, tx Tx) (string, error) { return work(ctx, s.in(tx)) })
}

func (s *transactions[Tx]) complete(ctx context.Context, c *idem.Claim, value string, rows func(context.Context, querier) error) error {
	tx, err := s.begin(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errWork, err)
	}
	if err := rows(ctx, s.in(tx)); err != nil {
		return fmt.Errorf("%w: %w", errWork, errors.Join(err, s.rollback(ctx, tx)))
	}
	settle, err := idem.CompleteTx(ctx, c, tx, resultOf(value))
	if errors.Is(err, idem.ErrStore) {
		return fmt.Errorf("%w: %w", errWork, errors.Join(err, s.rollback(ctx, tx)))
	}
	if err != nil {
		// The application goes on as if nothing were: the commit must be refused.
		if cerr := s.commit(ctx, tx); cerr == nil {
			return errors.Join(err, errors.New("a transaction was committed whose completion was refused"))
		}
		return err
	}
	commit := s.commit(ctx, tx)
	if err := settle(commit); err == nil || commit == nil || errors.Is(err, idem.ErrStore) {
		return err
	}
	return fmt.Errorf("%w: %w", errWork, commit)
}

func (s *transactions[Tx]) completeRaw(ctx context.Context, ref driver.Ref, c driver.Completion, rows func(context.Context, querier) error) error {
	tx, err := s.begin(ctx)
	if err != nil {
		return err
	}
	if err := rows(ctx, s.in(tx)); err != nil {
		return errors.Join(err, s.rollback(ctx, tx))
	}
	_, err = s.store.CompleteTx(ctx, tx, ref, c)
	cerr := s.commit(ctx, tx)
	if err != nil && cerr == nil {
		return errors.Join(err, errors.New("a transaction was committed whose completion was refused"))
	}
	if err != nil {
		return err
	}
	return cerr
}

// resultOf is a value as idem.Do records it, so that it can be replayed by it.
func resultOf(value string) idem.Result {
	body, _ := json.Marshal(value) // any text has a JSON
	return idem.Result{Meta: []byte("idem/json/1"), Body: body}
}
