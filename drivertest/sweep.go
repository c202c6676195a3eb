package drivertest

import (
	"fmt"

	"github.com/idem-go/idem/driver"
)

func sweepRules() []rule {
	rules := []rule{
		{"LeavesWhatIsAlive", func(e *env) {
			want := e.population()
			for range 3 {
				e.sweep()
			}
			for k, s := range want {
				e.state(k, s)
			}
		}},
		{"DropsWhatIsOver", func(e *env) {
			const n = 20
			var keys []driver.Key
			for i := range n {
				req := request(fmt.Sprint(i))
				ref := e.grant(req)
				keys = append(keys, req.Key)
				if i%2 == 0 {
					e.complete(ref, completion(req, "", "r"))
				} else {
					e.release(ref, false)
				}
			}
			e.advance(retention)
			equal(e, e.sweepAll(3), n, "the number swept at the end of the retention")
			equal(e, e.sweepAll(3), 0, "the number swept again")
			for i, k := range keys {
				if i%2 == 0 {
					e.state(k, driver.StateForgotten)
				} else {
					e.state(k, driver.StateAbsent)
				}
			}
			e.advance(tombstone)
			equal(e, e.sweepAll(3), n/2, "the number swept at the end of the tombstones")
			equal(e, e.sweepAll(3), 0, "the number swept again")
			for _, k := range keys {
				e.state(k, driver.StateAbsent)
			}
		}},
		{"DropsUnknownsAtTheirEnd", func(e *env) {
			lapsed, abandoned := request("lapsed"), request("abandoned")
			e.grant(lapsed)
			e.abandon(e.grant(abandoned))
			e.advance(lease)
			e.sweepAll(10)
			e.state(lapsed.Key, driver.StateUnknown)
			e.state(abandoned.Key, driver.StateUnknown)
			e.advance(tombstone)
			equal(e, e.sweepAll(10), 2, "the number swept")
			e.state(lapsed.Key, driver.StateAbsent)
			e.state(abandoned.Key, driver.StateAbsent)
		}},
		{"ALateOwnerIsStillTaken", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.advance(lease)
			e.sweepAll(10)
			e.completeLate(ref, completion(req, "", "late"))
			e.sweepAll(10)
			result(e, e.state(req.Key, driver.StateCompleted), "", "late")
		}},
		{"BetweenCalls", func(e *env) {
			for i := range 50 {
				req := request(fmt.Sprint(i % 5))
				req.Retry = true
				reply := e.claim(req)
				ref := driver.Ref{Key: req.Key, Token: reply.Record.Token}
				switch {
				case !reply.Granted:
				case i%3 == 0:
					e.complete(ref, completion(req, "", "r"))
				case i%3 == 1:
					e.release(ref, false)
				}
				e.advance(retention / 3)
				before := e.lookup(req.Key)
				e.sweepAll(2)
				if d := e.differ(before, e.lookup(req.Key)); d != "" {
					e.Fatalf("Sweep changed what a record reads as: %s", d)
				}
			}
		}},
	}
	for i := range rules {
		test := rules[i].test
		rules[i].test = func(e *env) {
			if _, ok := driver.As[driver.Sweeper](e.s); ok {
				test(e)
			}
		}
	}
	return rules
}

// sweepAll sweeps, a few at a time, until nothing is left to sweep.
func (e *env) sweepAll(limit int) int {
	e.Helper()
	s, _ := driver.As[driver.Sweeper](e.s)
	total := 0
	for range 10_000 {
		n, err := s.Sweep(e.ctx, limit)
		e.want(err, nil, "Sweep")
		if n > limit {
			e.Fatalf("Sweep swept %d records; the limit is %d", n, limit)
		}
		total += n
		if n == 0 {
			return total
		}
	}
	e.Fatalf("Sweep does not come to an end")
	return 0
}
