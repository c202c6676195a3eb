package rig

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/idem-go/idem/bench/internal/stats"
)

// SyncTime returns how long a sync of dir's disk takes, at the median of n: 4
// KiB written over a part of a file that exists already, and its data synced.
// It is the cheapest durable write there is, so a comparison with it is strict.
func SyncTime(dir string, n int) (median time.Duration, err error) {
	path := filepath.Join(dir, "sync-probe")
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(path)) }()
	const block, blocks = 4 << 10, 256
	if _, err := f.Write(make([]byte, block*blocks)); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	var h stats.Histogram
	b := make([]byte, block)
	for i := range n {
		b[0] = byte(i)
		began := time.Now()
		if _, err := f.WriteAt(b, int64(i%blocks)*block); err != nil {
			return 0, err
		}
		if err := syncData(f); err != nil {
			return 0, err
		}
		h.Add(time.Since(began))
	}
	return h.Quantile(0.5), nil
}
