package natsstore

import "sync/atomic"

// WithShift makes a store add a shift, in nanoseconds, to its monotonic clock.
func (o Options) WithShift(shift *atomic.Int64) *Options {
	o.shift = shift
	return &o
}
