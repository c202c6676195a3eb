//go:build !race

package idem_test

import (
	"context"
	"testing"

	"github.com/idem-go/idem"
)

// What a claim and a replay cost the garbage collector, in the core and the
// memory store together: a bound, so that a closure or a timer that slips in is
// seen. (The race detector counts otherwise.)
func TestAllocations(t *testing.T) {
	g := guard(t, newStore(), nil)
	ctx := context.Background()
	ids := make([]string, 2000)
	for i := range ids {
		ids[i] = itoa(i)
	}
	res := body("0123456789abcdef")
	next := 0
	req := request("")
	fresh := testing.AllocsPerRun(len(ids)-1, func() {
		req.Key.ID = ids[next]
		next++
		b, err := g.Begin(ctx, req)
		if err != nil || b.Claim == nil {
			t.Fatalf("%+v, %v", b, err)
		}
		if err := b.Claim.Complete(res); err != nil {
			t.Fatal(err)
		}
	})
	replayed := testing.AllocsPerRun(1000, func() {
		if b, err := g.Begin(ctx, req); err != nil || !b.Replayed {
			t.Fatalf("%+v, %v", b, err)
		}
	})
	observed := guard(t, newStore(), &idem.Options{Observer: discard{}})
	seen := testing.AllocsPerRun(1000, func() {
		b, _ := observed.Begin(ctx, req)
		if b.Claim != nil {
			_ = b.Claim.Complete(res)
		}
	})
	t.Logf("allocations: %v a claim with its completion, %v a replay, %v a replay that is observed", fresh, replayed, seen)
	if fresh > 8 {
		t.Errorf("a claim and its completion take %v allocations", fresh)
	}
	if replayed > 2 {
		t.Errorf("a replay takes %v allocations", replayed)
	}
}

type discard struct{}

func (discard) Observe(context.Context, idem.Event) {}
