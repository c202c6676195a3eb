//go:build !race

package allocs

import "testing"

// The race detector drops a part of what is put into a pool, so that there the
// counts would say nothing.
func TestMiddlewareKeepsItsBudget(t *testing.T) {
	counts, err := Measure(20_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range counts {
		t.Logf("%s: %.2f bare, %.2f with the middleware, %.2f more", c.Name, c.Bare, c.With, c.Added())
		if !c.Met() {
			t.Errorf("%s: the middleware adds %.2f allocations, the budget is %.0f", c.Name, c.Added(), c.Budget)
		}
	}
}
