package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/filestore"
	"github.com/idem-go/idem/idemhttp"
	"github.com/idem-go/idem/memstore"
)

// protect puts idem before the service: the store that dsn names, a guard over
// it, and the middleware. Without a dsn the service stays as it is. The
// function returned ends what protect has opened; it is called once, after
// the last request.
func protect(h http.Handler, dsn string) (http.Handler, func() error, error) {
	if dsn == "" {
		return h, func() error { return nil }, nil
	}
	store, err := openStore(dsn)
	if err != nil {
		return nil, nil, err
	}
	guard := idem.New(store, nil)
	// Everybody is one here: the service does not ask who somebody is. One that
	// does leaves Principal as it is, so that nobody gets another's answer.
	middleware := idemhttp.New(guard, &idemhttp.Options{Principal: idemhttp.NoPrincipal()})
	end := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), drain)
		defer cancel()
		return errors.Join(guard.Close(ctx), store.Close())
	}
	return middleware(h), end, nil
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
	return nil, fmt.Errorf("users: -idem %s: no such store; there are memory: and file:DIR", dsn)
}
