package metrics

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/idem-go/idem/driver"
)

// storeCollector asks the store when it is scraped, and at no other time.
type storeCollector struct {
	timeout time.Duration
	counter driver.Counter
	pinger  driver.Pinger

	up, full, records, bytes, oldest *prometheus.Desc
}

func newStoreCollector(store driver.Store, timeout time.Duration) *storeCollector {
	c := &storeCollector{
		timeout: timeout,
		up:      prometheus.NewDesc("idem_store_up", "Whether the store answers: 1 or 0.", nil, nil),
		full:    prometheus.NewDesc("idem_store_full", "Whether the store's bounds leave no room for another claim: 1 or 0.", nil, nil),
		records: prometheus.NewDesc("idem_store_records", "Records in the store, by their state.", []string{"state"}, nil),
		bytes:   prometheus.NewDesc("idem_store_bytes", "What the records take, in memory or on disk; 0 where it is not known.", nil, nil),
		oldest:  prometheus.NewDesc("idem_store_oldest_unknown_seconds", "The age of the oldest unknown outcome; 0 for none.", nil, nil),
	}
	c.counter, _ = driver.As[driver.Counter](store)
	c.pinger, _ = driver.As[driver.Pinger](store)
	return c
}

// Describe implements prometheus.Collector.
func (c *storeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.up, c.full, c.records, c.bytes, c.oldest} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. A store that does not answer is down,
// and the rest is left out rather than told as zero.
func (c *storeCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	var stats driver.Stats
	var err error
	if c.pinger != nil {
		err = c.pinger.Ping(ctx)
		full := errors.Is(err, driver.ErrFull)
		if full {
			err = nil
		}
		ch <- prometheus.MustNewConstMetric(c.full, prometheus.GaugeValue, number(full))
	}
	if err == nil && c.counter != nil {
		stats, err = c.counter.Stats(ctx)
	}
	if c.pinger != nil || c.counter != nil {
		ch <- prometheus.MustNewConstMetric(c.up, prometheus.GaugeValue, number(err == nil))
	}
	if err != nil || c.counter == nil {
		return
	}
	for state, n := range map[driver.State]int64{
		driver.StateInFlight: stats.InFlight, driver.StateCompleted: stats.Completed,
		driver.StateUnknown: stats.Unknown, driver.StateForgotten: stats.Forgotten,
	} {
		ch <- prometheus.MustNewConstMetric(c.records, prometheus.GaugeValue, float64(n), state.String())
	}
	ch <- prometheus.MustNewConstMetric(c.bytes, prometheus.GaugeValue, float64(stats.Bytes))
	ch <- prometheus.MustNewConstMetric(c.oldest, prometheus.GaugeValue, stats.OldestUnknown.Seconds())
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
