package drivertest

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/idem-go/idem/driver"
)

func closeRules() []rule {
	return []rule{
		{"PingAnswers", func(e *env) {
			if p, ok := driver.As[driver.Pinger](e.s); ok {
				e.want(p.Ping(e.ctx), nil, "Ping")
			}
		}},
		{"ItSaysWhatItIs", func(e *env) {
			d, ok := driver.As[driver.Describer](e.s)
			if !ok {
				return
			}
			info := d.Describe()
			if info.Name == "" || strings.ToLower(info.Name) != info.Name {
				e.Fatalf("the store's name is %q; it should be a short name in lower case", info.Name)
			}
			if info.MaxResult < 0 {
				e.Fatalf("the store's largest result is %d", info.MaxResult)
			}
			if !info.Shared && info.Durable != (e.h.Reopen != nil) {
				e.Fatalf("the store says durable %v; the harness needs Reopen for that, and only for that", info.Durable)
			}
		}},
		// A store that cannot serve says so, in each of its methods.
		{"Trap64AClosedStoreSaysSo", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			c, ok := e.s.(io.Closer)
			if !ok {
				return
			}
			e.want(c.Close(), nil, "Close")
			_, err := e.s.Claim(e.ctx, request("k"))
			e.closed(err, "Claim")
			_, err = e.s.Claim(e.ctx, request("fresh"))
			e.closed(err, "Claim")
			e.closed(e.s.Renew(e.ctx, ref, lease), "Renew")
			_, err = e.s.Complete(e.ctx, ref, completion(req, "", ""))
			e.closed(err, "Complete")
			e.closed(e.s.Release(e.ctx, ref, driver.Release{Retention: retention}), "Release")
			e.closed(e.s.Abandon(e.ctx, ref), "Abandon")
			_, err = e.s.Lookup(e.ctx, req.Key)
			e.closed(err, "Lookup")
			if p, ok := driver.As[driver.Pinger](e.s); ok {
				e.closed(p.Ping(e.ctx), "Ping")
			}
			if w, ok := driver.As[driver.Waiter](e.s); ok {
				ctx, cancel := context.WithTimeout(e.ctx, lease/2)
				e.closed(w.Wait(ctx, ref), "Wait")
				cancel()
			}
			if r := e.resolver(); r != nil {
				_, err = r.Resolve(e.ctx, req.Key, resolution(driver.ResolveRelease))
				e.closed(err, "Resolve")
			}
			if l, ok := driver.As[driver.Lister](e.s); ok {
				_, err = l.List(e.ctx, driver.Query{Limit: 1})
				e.closed(err, "List")
			}
			if s, ok := driver.As[driver.Sweeper](e.s); ok {
				_, err = s.Sweep(e.ctx, 1)
				e.closed(err, "Sweep")
			}
			if c, ok := driver.As[driver.Counter](e.s); ok {
				_, err = c.Stats(e.ctx)
				e.closed(err, "Stats")
			}
		}},
		{"CloseWakesWhoeverWaits", func(e *env) {
			w, ok := driver.As[driver.Waiter](e.s)
			c, closes := e.s.(io.Closer)
			if !ok || !closes {
				return
			}
			ref := e.grant(request("k"))
			ctx, cancel := context.WithTimeout(e.ctx, lease/2)
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- waitOut(ctx, w, ref) }()
			e.want(c.Close(), nil, "Close")
			e.closed(<-ended, "Wait")
		}},
	}
}

func (e *env) closed(err error, call string) {
	e.Helper()
	if !errors.Is(err, driver.ErrClosed) {
		e.Fatalf("%s on a closed store: %v; it should give: %v", call, err, driver.ErrClosed)
	}
}
