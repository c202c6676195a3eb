// Package metrics tells Prometheus what a guard does and what its store holds.
package metrics

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
)

// maxRoutes bounds the values of the route label; those past it are counted
// together, under otherRoute.
const (
	maxRoutes  = 100
	otherRoute = "other"
)

// Options are the settings of [New]. Nil takes the defaults.
type Options struct {
	// Version labels idem_build_info; empty leaves it out.
	Version string
	// Requests, unless nil, returns how many requests run now.
	Requests func() int64
	// StoreTimeout bounds what one scrape asks of the store. Default 2s.
	StoreTimeout time.Duration
}

// Metrics is an [idem.Observer] that counts, and a handler that tells. It is
// safe for use by many goroutines.
type Metrics struct {
	registry *prometheus.Registry
	claims   *prometheus.CounterVec
	outcomes *prometheus.CounterVec
	begin    *prometheus.HistogramVec
	held     *prometheus.HistogramVec

	mu     sync.RWMutex
	routes map[string]*route
}

// route holds the series of one route, so that an event costs no look-up of
// its labels.
type route struct {
	claims   prometheus.Counter
	begin    prometheus.Observer
	held     prometheus.Observer
	outcomes map[idem.EventKind]prometheus.Counter
}

// New returns metrics with a registry of their own. Whatever of the store's
// optional interfaces there is, is told; a store without them tells nothing.
func New(store driver.Store, opts *Options) *Metrics {
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.StoreTimeout <= 0 {
		o.StoreTimeout = 2 * time.Second
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		routes:   make(map[string]*route),
		claims: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "idem_claims_total",
			Help: "Claims granted: how often work began.",
		}, []string{"route"}),
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "idem_operations_total",
			Help: "How claims ended, and how requests that got no claim were answered.",
		}, []string{"route", "outcome"}),
		begin: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "idem_begin_seconds",
			Help:    "How long callers were with the claim of their key, waiting for another's included.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"route"}),
		held: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "idem_claim_held_seconds",
			Help:    "How long claims were held, from their grant to their end.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900},
		}, []string{"route"}),
	}
	m.registry.MustRegister(m.claims, m.outcomes, m.begin, m.held,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newStoreCollector(store, o.StoreTimeout))
	if o.Requests != nil {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "idem_requests_in_flight",
			Help: "Requests of the listen address that run now, with or without a key.",
		}, func() float64 { return float64(o.Requests()) }))
	}
	if o.Version != "" {
		info := prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "idem_build_info", Help: "The program's version; always 1.",
			ConstLabels: prometheus.Labels{"version": o.Version},
		})
		info.Set(1)
		m.registry.MustRegister(info)
	}
	return m
}

// Handler returns what answers a scrape.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Observe implements [idem.Observer].
func (m *Metrics) Observe(_ context.Context, e idem.Event) {
	r := m.route(e.Route)
	if e.Kind == idem.EventClaimed {
		r.claims.Inc()
		r.begin.Observe(e.Duration.Seconds())
		return
	}
	c := r.outcomes[e.Kind]
	if c == nil {
		return // a kind of a newer core
	}
	c.Inc()
	switch e.Kind {
	case idem.EventRan, idem.EventLate, idem.EventReleased, idem.EventAbandoned, idem.EventLost:
		r.held.Observe(e.Duration.Seconds())
	case idem.EventUnsaved, idem.EventResolved:
		// Neither the end of a claim nor an answer of Begin.
	default:
		r.begin.Observe(e.Duration.Seconds())
	}
}

func (m *Metrics) route(name string) *route {
	m.mu.RLock()
	r := m.routes[name]
	m.mu.RUnlock()
	if r != nil {
		return r
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.routes) >= maxRoutes {
		name = otherRoute
	}
	if r = m.routes[name]; r != nil {
		return r
	}
	r = &route{
		claims:   m.claims.WithLabelValues(name),
		begin:    m.begin.WithLabelValues(name),
		held:     m.held.WithLabelValues(name),
		outcomes: make(map[idem.EventKind]prometheus.Counter),
	}
	for _, kind := range kinds() {
		r.outcomes[kind] = m.outcomes.WithLabelValues(name, string(kind))
	}
	m.routes[name] = r
	return r
}

// kinds are the outcomes that are counted: each has its series from the start,
// so that a first event is a rise from zero.
func kinds() []idem.EventKind {
	return []idem.EventKind{
		idem.EventRan, idem.EventLate, idem.EventReplayed, idem.EventShared, idem.EventInFlight, idem.EventReused,
		idem.EventUnknown, idem.EventAbandoned, idem.EventReleased, idem.EventLost, idem.EventUnsaved,
		idem.EventForgotten, idem.EventNotStored, idem.EventUnreadable, idem.EventOverloaded, idem.EventStore,
		idem.EventResolved,
	}
}
