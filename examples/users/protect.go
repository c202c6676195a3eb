package main

import (
	"fmt"
	"net/http"
)

// protect puts idem before the service: the store that dsn names, a guard over
// it, and the middleware. Without a dsn the service stays as it is. The
// function returned ends what protect has opened; it is called once, after
// the last request.
func protect(h http.Handler, dsn string) (http.Handler, func() error, error) {
	if dsn == "" {
		return h, func() error { return nil }, nil
	}
	return nil, nil, fmt.Errorf("users: -idem %s: no such store", dsn)
}
