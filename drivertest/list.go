package drivertest

import (
	"fmt"

	"github.com/idem-go/idem/driver"
)

func listRules() []rule {
	rules := []rule{
		{"AllButAbsent", func(e *env) {
			want := e.population()
			e.lists(driver.Query{Limit: 1000}, want, func(s driver.State) bool { return s != driver.StateAbsent })
		}},
		{"InPages", func(e *env) {
			want := e.population()
			for _, limit := range []int{1, 2, 3, 7} {
				e.lists(driver.Query{Limit: limit}, want, func(s driver.State) bool { return s != driver.StateAbsent })
			}
		}},
		{"ByState", func(e *env) {
			want := e.population()
			for _, wanted := range [][]driver.State{
				{driver.StateInFlight}, {driver.StateCompleted}, {driver.StateUnknown}, {driver.StateForgotten},
				{driver.StateUnknown, driver.StateInFlight},
			} {
				e.lists(driver.Query{Limit: 3, States: wanted}, want, func(s driver.State) bool {
					for _, w := range wanted {
						if s == w {
							return true
						}
					}
					return false
				})
			}
		}},
		{"ByScope", func(e *env) {
			for i := range 12 {
				req := request(fmt.Sprint(i))
				req.Scope = []string{"one", "two", "One", "on"}[i%4]
				req.Key = driver.KeyOf(req.Scope, req.ID)
				ref := e.grant(req)
				if i%3 == 0 {
					e.complete(ref, completion(req, "", ""))
				}
			}
			records := e.pages(driver.Query{Limit: 2, Scope: "one"})
			equal(e, len(records), 3, "the number of records of a scope")
			for _, rec := range records {
				equal(e, rec.Scope, "one", "the scope")
			}
			equal(e, len(e.pages(driver.Query{Limit: 2, Scope: "none"})), 0, "the number of records of no scope")
		}},
		{"WithoutResults", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.complete(ref, completion(req, "201", "large"))
			records := e.pages(driver.Query{Limit: 10})
			equal(e, len(records), 1, "the number of records")
			rec := records[0]
			result(e, rec, "", "")
			looked := e.lookup(req.Key)
			looked.Result = driver.Result{}
			if d := e.differ(rec, looked); d != "" {
				e.Fatalf("List and Lookup differ: %s", d)
			}
		}},
		{"OfNothing", func(e *env) {
			equal(e, len(e.pages(driver.Query{Limit: 1})), 0, "the number of records of an empty store")
		}},
		{"Bounds", func(e *env) {
			l, _ := driver.As[driver.Lister](e.s)
			for _, limit := range []int{-1, 0, 1001} {
				_, err := l.List(e.ctx, driver.Query{Limit: limit})
				e.want(err, driver.ErrInvalid, fmt.Sprintf("List with limit %d", limit))
			}
		}},
	}
	for i := range rules {
		test := rules[i].test
		rules[i].test = func(e *env) {
			if _, ok := driver.As[driver.Lister](e.s); ok {
				test(e)
			}
		}
	}
	return rules
}

// population makes records in every state, and says which key is in which.
func (e *env) population() map[driver.Key]driver.State {
	e.Helper()
	want := map[driver.Key]driver.State{}
	var refs []driver.Ref
	add := func(s driver.State, n int, f func(req driver.ClaimRequest, ref driver.Ref)) {
		for i := range n {
			req := request(fmt.Sprint(s, len(want), i))
			ref := e.grant(req)
			f(req, ref)
			want[req.Key] = s
			refs = append(refs, ref)
		}
	}
	add(driver.StateForgotten, 5, func(req driver.ClaimRequest, ref driver.Ref) {
		e.complete(ref, completion(req, "", "old"))
	})
	e.advance(retention)
	add(driver.StateUnknown, 4, func(driver.ClaimRequest, driver.Ref) {})
	e.advance(lease)
	add(driver.StateUnknown, 2, func(_ driver.ClaimRequest, ref driver.Ref) { e.abandon(ref) })
	add(driver.StateInFlight, 6, func(driver.ClaimRequest, driver.Ref) {})
	add(driver.StateAbsent, 3, func(_ driver.ClaimRequest, ref driver.Ref) { e.release(ref, false) })
	add(driver.StateCompleted, 7, func(req driver.ClaimRequest, ref driver.Ref) {
		e.complete(ref, completion(req, "", "new"))
	})
	return want
}

// pages reads a list to its end; nothing changes meanwhile.
func (e *env) pages(q driver.Query) []driver.Record {
	e.Helper()
	l, _ := driver.As[driver.Lister](e.s)
	var records []driver.Record
	for range 1000 {
		page, err := l.List(e.ctx, q)
		e.want(err, nil, "List")
		if len(page.Records) > q.Limit {
			e.Fatalf("List returned %d records; the limit is %d", len(page.Records), q.Limit)
		}
		records = append(records, page.Records...)
		if page.Next == "" {
			return records
		}
		q.After = page.Next
	}
	e.Fatalf("List does not come to an end")
	return nil
}

func (e *env) lists(q driver.Query, want map[driver.Key]driver.State, wanted func(driver.State) bool) {
	e.Helper()
	seen := map[driver.Key]bool{}
	for _, rec := range e.pages(q) {
		if seen[rec.Key] {
			e.Fatalf("List returned the record %s twice", rec.Key.Short())
		}
		seen[rec.Key] = true
		s, ok := want[rec.Key]
		if !ok || s != rec.State {
			e.Fatalf("List returned a record that is %s; it should be %v", show(rec), s)
		}
		if !wanted(s) {
			e.Fatalf("List returned a record that is %v; the states wanted were %v", s, q.States)
		}
	}
	for k, s := range want {
		if wanted(s) && !seen[k] {
			e.Fatalf("List missed a record that is %v (limit %d, states %v)", s, q.Limit, q.States)
		}
	}
}
