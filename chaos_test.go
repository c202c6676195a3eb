package idem_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
)

// chaos loses questions and answers, delays both, and lets what its caller has
// given up arrive late, all by a seed.
type chaos struct {
	mu    sync.Mutex
	rng   *rand.Rand
	calm  bool
	late  sync.WaitGroup
	kinds [6]int
}

func (c *chaos) draw() (kind int, delay time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calm {
		return 0, 0
	}
	delay = time.Duration(c.rng.Int64N(int64(8 * time.Second)))
	switch p := c.rng.IntN(100); {
	case p < 15:
		kind = 1 // lost question
	case p < 30:
		kind = 2 // lost answer
	case p < 35:
		kind = 3 // slow question
	case p < 40:
		kind = 4 // slow answer
	case p < 45:
		kind = 5 // arrives after its caller has left
	}
	c.kinds[kind]++
	return kind, delay
}

func (c *chaos) fault(ctx context.Context, _ string, call func(context.Context) error) error {
	kind, delay := c.draw()
	slow := func() error {
		select {
		case <-time.After(delay):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	switch kind {
	case 1:
		return errDown
	case 2:
		_ = call(ctx)
		return errDown
	case 3:
		if err := slow(); err != nil {
			return err
		}
		return call(ctx)
	case 4:
		err := call(ctx)
		if slow() != nil {
			return ctx.Err()
		}
		return err
	case 5:
		c.late.Go(func() {
			time.Sleep(delay)
			_ = call(context.WithoutCancel(ctx))
		})
		return errDown
	}
	return call(ctx)
}

// Under a store that breaks in every way, with the policy refuse, no key takes
// effect twice, and each caller who is told of a result is told the same.
func TestAtMostOnceUnderFaults(t *testing.T) {
	rng, seed := seeded(t)
	bubble(t, func(t *testing.T) {
		const keys, workers, callers = 3000, 100, 4
		inner := newStore()
		weather := &chaos{rng: rng}
		store := faults(inner, weather.fault)
		opts := &idem.Options{Policy: idem.Policy{Wait: 20 * time.Second}}
		guards := []*idem.Guard{guard(t, store, opts), guard(t, store, opts)}
		var effects ledger
		var mu sync.Mutex
		values := map[string]int{}
		told := 0

		call := func(rng *rand.Rand, id string) {
			for range 6 {
				effect := rng.IntN(1 << 30)
				v, err := idem.Do(context.Background(), guards[rng.IntN(2)], *request(id), func(ctx context.Context) (int, error) {
					select {
					case <-time.After(time.Duration(rng.IntN(40)) * time.Second):
					case <-ctx.Done():
						return 0, ctx.Err() // nothing was done, though nobody can tell
					}
					if rng.IntN(10) == 0 {
						return 0, idem.ReleaseError(errProvider)
					}
					if n := effects.add(id); n != 1 {
						t.Errorf("key %s took effect %d times", id, n)
					}
					return effect, nil
				})
				if err == nil {
					mu.Lock()
					if was, ok := values[id]; ok && was != v {
						t.Errorf("key %s: %d and %d", id, was, v)
					}
					values[id] = v
					told++
					mu.Unlock()
					return
				}
				if errors.Is(err, idem.ErrUnknown) && !errors.Is(err, idem.ErrUnsaved) {
					return
				}
				time.Sleep(time.Duration(rng.IntN(10)) * time.Second)
			}
		}
		next := make(chan int, keys)
		for k := range keys {
			next <- k
		}
		close(next)
		together(workers, func(int) {
			for k := range next {
				together(callers, func(i int) {
					call(rand.New(rand.NewPCG(seed, uint64(k*callers+i))), itoa(k))
				})
			}
		})
		weather.mu.Lock()
		weather.calm = true
		weather.mu.Unlock()
		weather.late.Wait()
		time.Sleep(10 * time.Minute)

		states := map[driver.State]int{}
		for i := range keys {
			id := itoa(i)
			r := lookup(t, inner, request(id))
			states[r.State]++
			if r.State == driver.StateInFlight {
				t.Errorf("key %s is still in flight", id)
			}
			if v, ok := values[id]; ok && (r.State != driver.StateCompleted || string(r.Result.Body) != itoa(v)) {
				t.Errorf("key %s: callers were told %d, the record is %v with %q", id, v, r.State, r.Result.Body)
			}
			if r.State == driver.StateCompleted && effects.of(id) != 1 {
				t.Errorf("key %s: completed after %d effects", id, effects.of(id))
			}
		}
		t.Logf("records %v; %d callers told of %d results; faults %v", states, told, len(values), weather.kinds)
		if len(values) < keys/4 {
			t.Errorf("only %d of %d keys gave a result", len(values), keys)
		}
	})
}
