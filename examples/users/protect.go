package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/filestore"
	"github.com/idem-go/idem/idemhttp"
	"github.com/idem-go/idem/memstore"
	"github.com/idem-go/idem/pgstore"
	"github.com/idem-go/idem/sqlitestore"
)

// protect puts idem before the service: the store that dsn names, a guard over
// it, and the middleware. Without a dsn the service stays as it is. The
// function returned ends what protect has opened; it is called once, after
// the last request.
func protect(ctx context.Context, h http.Handler, t *table, dsn string) (http.Handler, func() error, error) {
	// Everybody is one here: the service does not ask who somebody is. One that
	// does leaves Principal as it is, so that nobody gets another's answer.
	opts := &idemhttp.Options{Principal: idemhttp.NoPrincipal()}
	switch dsn {
	case "":
		return h, func() error { return nil }, nil
	case "tx":
		store, err := t.records(ctx)
		if err != nil {
			return nil, nil, err
		}
		guard := idem.NewTx(store, nil)
		return idemhttp.NewTx(guard, opts)(h), end(guard, store), nil
	}
	store, err := openStore(dsn)
	if err != nil {
		return nil, nil, err
	}
	guard := idem.New(store, nil)
	return idemhttp.New(guard, opts)(h), end(guard, store), nil
}

// end closes a guard and then its store.
func end(guard interface {
	Close(ctx context.Context) error
}, store closable) func() error {
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), drain)
		defer cancel()
		return errors.Join(guard.Close(ctx), store.Close())
	}
}

// txStore is a store whose records commit with the users.
type txStore interface {
	driver.TxStore[*sql.Tx]
	Close() error
}

// records opens the store in the database of the users, and makes its tables
// when they are not there: a user and the record of who made it commit together.
func (t *table) records(ctx context.Context) (txStore, error) {
	if t.postgres {
		if err := pgstore.MigrateDB(ctx, t.db, nil); err != nil {
			return nil, err
		}
		return pgstore.NewDB(ctx, t.db, nil)
	}
	if err := sqlitestore.Migrate(ctx, t.db, nil); err != nil {
		return nil, err
	}
	return sqlitestore.New(ctx, t.db, nil)
}

// closable is a store that holds something until it is closed.
type closable interface {
	driver.Store
	Close() error
}

func openStore(dsn string) (closable, error) {
	kind, dir, _ := strings.Cut(dsn, ":")
	switch {
	case kind == "memory" && dir == "":
		return memstore.New(nil), nil
	case kind == "file" && dir != "":
		return filestore.Open(dir, nil)
	}
	return nil, fmt.Errorf("users: -idem %s: no such store; there are memory:, file:DIR and tx", dsn)
}
