// Package stats holds the few statistics that the measurements need.
package stats

import (
	"math/bits"
	"slices"
	"time"
)

// Sample is a list of measurements of one thing.
type Sample []float64

// Median returns the middle value, the mean of the two middle ones of an even
// number, and 0 of none.
func (s Sample) Median() float64 {
	if len(s) == 0 {
		return 0
	}
	o := slices.Sorted(slices.Values(s))
	if n := len(o); n%2 == 0 {
		return (o[n/2-1] + o[n/2]) / 2
	}
	return o[len(o)/2]
}

// Min returns the smallest value, 0 of none.
func (s Sample) Min() float64 {
	if len(s) == 0 {
		return 0
	}
	return slices.Min(s)
}

// Max returns the largest value, 0 of none.
func (s Sample) Max() float64 {
	if len(s) == 0 {
		return 0
	}
	return slices.Max(s)
}

// Each power of two of nanoseconds has subBuckets buckets, so that a value is
// known to within one part in subBuckets.
const (
	subBits    = 7
	subBuckets = 1 << subBits
	powers     = 40
)

// Histogram counts durations up to about two hours. Its zero value is empty. It
// is not safe for use by several goroutines.
type Histogram struct {
	counts [powers * subBuckets]uint32
	n      int64
}

// Add counts one duration.
func (h *Histogram) Add(d time.Duration) {
	h.counts[bucket(uint64(max(d, 0)))]++
	h.n++
}

// Merge adds what o has counted.
func (h *Histogram) Merge(o *Histogram) {
	for i, c := range o.counts {
		h.counts[i] += c
	}
	h.n += o.n
}

// Count returns how many durations were counted.
func (h *Histogram) Count() int64 { return h.n }

// Quantile returns the duration that the share q of all do not exceed, to the
// middle of its bucket; 0 where nothing was counted.
func (h *Histogram) Quantile(q float64) time.Duration {
	want, seen := int64(q*float64(h.n)), int64(0)
	for i, c := range h.counts {
		if seen += int64(c); seen > want {
			low, high := lowest(i), lowest(i+1)
			return time.Duration(low + (high-low)/2)
		}
	}
	return 0
}

func bucket(v uint64) int {
	if v < subBuckets {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return min((shift+1)<<subBits+int(v>>shift)-subBuckets, powers*subBuckets-1)
}

// lowest returns the smallest value of a bucket.
func lowest(i int) uint64 {
	if i < subBuckets {
		return uint64(i)
	}
	shift := i>>subBits - 1
	return uint64(i-shift<<subBits) << shift
}
