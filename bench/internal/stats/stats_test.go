package stats

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		s    Sample
		want float64
	}{{nil, 0}, {Sample{3}, 3}, {Sample{9, 1, 5}, 5}, {Sample{4, 1, 2, 3}, 2.5}} {
		if got := c.s.Median(); got != c.want {
			t.Errorf("Median(%v) = %v, want %v", c.s, got, c.want)
		}
	}
}

// Every value lies in its bucket, and buckets follow each other without a gap.
func TestBucketsHoldTheirValues(t *testing.T) {
	for i := range powers*subBuckets - 1 {
		if b := bucket(lowest(i)); b != i {
			t.Fatalf("the lowest value %d of bucket %d is counted in %d", lowest(i), i, b)
		}
		if b := bucket(lowest(i+1) - 1); b != i {
			t.Fatalf("the highest value %d of bucket %d is counted in %d", lowest(i+1)-1, i, b)
		}
	}
}

func TestQuantileIsNear(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	var h Histogram
	var all []time.Duration
	for range 10_000 {
		d := time.Duration(r.ExpFloat64() * float64(time.Millisecond))
		h.Add(d)
		all = append(all, d)
	}
	slices.Sort(all)
	for _, q := range []float64{0.5, 0.9, 0.99} {
		got, want := h.Quantile(q), all[int(q*float64(len(all)))]
		if diff := (got - want).Abs(); diff > want/subBuckets+1 {
			t.Errorf("quantile %v is %v, want %v within %v", q, got, want, want/subBuckets)
		}
	}
}
