package drivertest

import (
	"fmt"

	"github.com/idem-go/idem/driver"
)

func countRules() []rule {
	return []rule{
		{"ByState", func(e *env) {
			c, ok := driver.As[driver.Counter](e.s)
			if !ok {
				return
			}
			e.counts(c, driver.Stats{})
			e.population()
			e.counts(c, driver.Stats{InFlight: 6, Completed: 7, Unknown: 6, Forgotten: 5})
			e.sweep()
			e.counts(c, driver.Stats{InFlight: 6, Completed: 7, Unknown: 6, Forgotten: 5})
			e.advance(lease)
			e.counts(c, driver.Stats{Completed: 7, Unknown: 12, Forgotten: 5})
		}},
		{"TheOldestUnknown", func(e *env) {
			c, ok := driver.As[driver.Counter](e.s)
			if !ok {
				return
			}
			ref := e.grant(request("k"))
			e.advance(lease)
			e.grant(request("another"))
			e.advance(2 * lease)
			st, err := c.Stats(e.ctx)
			e.want(err, nil, "Stats")
			if st.OldestUnknown < 3*lease || st.OldestUnknown > 3*lease+e.h.Slack {
				e.Fatalf("the oldest unknown is %v old; it should be %v", st.OldestUnknown, 3*lease)
			}
			e.completeLate(ref, completion(request("k"), "", ""))
			st, err = c.Stats(e.ctx)
			e.want(err, nil, "Stats")
			if st.OldestUnknown < 2*lease || st.OldestUnknown > 2*lease+e.h.Slack {
				e.Fatalf("the oldest unknown is %v old; it should be %v", st.OldestUnknown, 2*lease)
			}
		}},
		// Past the bound new claims are refused, and nothing else is.
		{"UnknownsAreBounded", func(e *env) {
			if e.h.NewBounded == nil {
				return
			}
			const bound = 8
			e.s = e.h.NewBounded(e.TB, bound)
			known := request("known")
			e.complete(e.grant(known), completion(known, "", "r"))
			running := request("running")
			running.Lease = 4 * lease
			runs := e.grant(running)
			var refs []driver.Ref
			for i := range bound {
				ref := e.grant(request(fmt.Sprint(i)))
				if i%2 == 0 {
					e.abandon(ref)
				}
				refs = append(refs, ref)
			}
			e.advance(lease)
			_, err := e.s.Claim(e.ctx, request("one more"))
			e.want(err, driver.ErrFull, "Claim past the bound on unknowns")
			e.state(driver.KeyOf("scope", "one more"), driver.StateAbsent)

			// The claims that stand, and their repeats, go on.
			e.state(known.Key, driver.StateCompleted)
			result(e, e.refuse(request("known")), "", "r")
			e.renew(runs, 4*lease)
			equal(e, e.grant(running), runs, "the repeat of a claim")
			// So does what makes unknowns fewer.
			retry := request("0")
			retry.Retry = true
			ref := e.grant(retry)
			e.grant(request("one more"))
			e.abandon(ref)
			_, err = e.s.Claim(e.ctx, request("and another"))
			e.want(err, driver.ErrFull, "Claim past the bound on unknowns")
			e.completeLate(refs[1], completion(request("1"), "", "late"))
			e.grant(request("and another"))
		}},
		{"UnknownsAtTheirEndMakeRoom", func(e *env) {
			if e.h.NewBounded == nil {
				return
			}
			const bound = 4
			e.s = e.h.NewBounded(e.TB, bound)
			for i := range bound {
				e.abandon(e.grant(request(fmt.Sprint(i))))
			}
			_, err := e.s.Claim(e.ctx, request("one more"))
			e.want(err, driver.ErrFull, "Claim past the bound on unknowns")
			e.advance(tombstone)
			e.grant(request("one more"))
		}},
	}
}

func (e *env) counts(c driver.Counter, want driver.Stats) {
	e.Helper()
	got, err := c.Stats(e.ctx)
	e.want(err, nil, "Stats")
	got.Bytes, got.OldestUnknown = 0, 0
	if got != want {
		e.Fatalf("Stats counts %+v; it should count %+v", got, want)
	}
}
