package memstore_test

import (
	"testing"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/memstore"
)

func harness() drivertest.Harness {
	open := func(t testing.TB, o *memstore.Options) *memstore.Store {
		s := memstore.New(o)
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
		return s
	}
	h := drivertest.Bubble(func(t testing.TB) driver.Store {
		return open(t, &memstore.Options{MaxResult: 10_000})
	})
	h.NewBounded = func(t testing.TB, maxUnknown int) driver.Store {
		return open(t, &memstore.Options{MaxUnknown: maxUnknown})
	}
	return h
}

func TestConformance(t *testing.T) { drivertest.Run(t, harness()) }

func TestModel(t *testing.T) { drivertest.RunModel(t, harness(), nil) }

func BenchmarkStore(b *testing.B) { drivertest.RunBenchmarks(b, harness().New) }
