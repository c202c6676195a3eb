// Package proxies compares idem proxy with a bare reverse proxy: each
// measurement lies between two of the bare one, and what is told of it is the
// ratio to their mean.
package proxies

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/idem-go/idem/bench/internal/load"
	"github.com/idem-go/idem/bench/internal/rig"
	"github.com/idem-go/idem/bench/internal/stats"
)

// Conns is the number of connections at which rates are compared.
const Conns = 64

// responseSize is what cmd/upstream answers, in bytes.
const responseSize = 1 << 10

// Options say how long to measure.
type Options struct {
	Binaries rig.Binaries
	// Dir is where the file store's directories are made.
	Dir string
	// Rounds is how often each comparison is repeated; Warmup and Duration are
	// those of each measurement.
	Rounds           int
	Warmup, Duration time.Duration
	// DSNs are the stores of servers, by their schemes; a scenario whose store is
	// not among them, nor in the proxy's process, is left out.
	DSNs map[string]string
	// Syncs is how many syncs of the disk are timed in a round.
	Syncs int
	// Log is told what is being done.
	Log func(format string, args ...any)
}

// Scenario is one of the comparisons.
type Scenario struct {
	// Name is for people: "fresh keys, file:".
	Name string
	// Store is the DSN's scheme.
	Store string
	keys  load.Keys
}

// Scenarios returns the comparisons, in their order.
func Scenarios() []Scenario {
	return []Scenario{
		{"no key", "memory", load.NoKeys},
		{"fresh keys, memory:", "memory", load.FreshKeys},
		{"fresh keys, file:", "file", load.FreshKeys},
		{"fresh keys, redis:", "redis", load.FreshKeys},
		{"fresh keys, postgres:", "postgres", load.FreshKeys},
		{"replays, memory:", "memory", load.RepeatedKeys},
		{"replays, file:", "file", load.RepeatedKeys},
		{"replays, redis:", "redis", load.RepeatedKeys},
		{"replays, postgres:", "postgres", load.RepeatedKeys},
	}
}

// Comparison is what became of a scenario. Each sample has a value for each
// round.
type Comparison struct {
	Scenario
	// Ratio is idem's rate, in the bare proxy's.
	Ratio stats.Sample
	// Rate and BareRate are answers a second.
	Rate, BareRate stats.Sample
	// CPU and BareCPU are the proxy's processor time, in microseconds per
	// request; empty where it is not known.
	CPU, BareCPU stats.Sample
	// Allocs and BareAllocs are the proxy's heap allocations per request.
	Allocs, BareAllocs stats.Sample
}

// Latency is what a fresh key costs a single client, in microseconds, each
// the median of a round.
type Latency struct {
	Idem, Bare, Sync stats.Sample
	// Over is what idem takes over the bare proxy and two syncs.
	Over stats.Sample
}

// Results are what Compare gives.
type Results struct {
	Comparisons []Comparison
	Latency     Latency
	// HandlerAllocs is what the upstream, a net/http server with a handler and
	// nothing more, allocates per request.
	HandlerAllocs float64
}

// Compare runs all scenarios, round by round, and then the latency.
func Compare(ctx context.Context, o Options) (r *Results, err error) {
	b := &bench{Options: o}
	if b.upstream, err = rig.Start(ctx, o.Binaries.Upstream); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.upstream.Stop()) }()
	if b.bare, err = rig.Start(ctx, o.Binaries.Bare, "-upstream", "http://"+b.upstream.Addr); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.bare.Stop()) }()

	r = new(Results)
	direct, err := b.measure(ctx, b.upstream, load.FreshKeys, Conns, false)
	if err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	r.HandlerAllocs = direct.allocs
	for _, s := range Scenarios() {
		if s.Store != "memory" && s.Store != "file" && o.DSNs[s.Store] == "" {
			continue
		}
		r.Comparisons = append(r.Comparisons, Comparison{Scenario: s})
	}
	for round := range o.Rounds {
		for i := range r.Comparisons {
			c := &r.Comparisons[i]
			if err := b.compare(ctx, c); err != nil {
				return nil, fmt.Errorf("%s: %w", c.Name, err)
			}
			o.Log("round %d of %d: %-20s %.3f", round+1, o.Rounds, c.Name, c.Ratio[round])
		}
	}
	for round := range o.Rounds {
		if err := b.latency(ctx, &r.Latency); err != nil {
			return nil, fmt.Errorf("latency: %w", err)
		}
		o.Log("round %d of %d: %-20s %+.0f µs over bare and two syncs", round+1, o.Rounds, "one connection", r.Latency.Over[round])
	}
	return r, nil
}

type bench struct {
	Options
	upstream, bare *rig.Process
	// last is the newest measurement of the bare proxy; it is the first of two
	// for a comparison whose requests are of the same form.
	last     *measured
	lastKeys bool
}

// measured is what one run gave.
type measured struct {
	rate, allocs float64
	cpu          float64
	cpuKnown     bool
	median       time.Duration
}

func (b *bench) compare(ctx context.Context, c *Comparison) error {
	keyed := c.keys != load.NoKeys
	before := b.last
	if before == nil || b.lastKeys != keyed {
		var err error
		if before, err = b.measure(ctx, b.bare, c.keys, Conns, false); err != nil {
			return fmt.Errorf("bare: %w", err)
		}
	}
	mine, err := b.measureIdem(ctx, c.Store, c.keys, Conns)
	if err != nil {
		return err
	}
	after, err := b.measure(ctx, b.bare, c.keys, Conns, false)
	if err != nil {
		return fmt.Errorf("bare: %w", err)
	}
	b.last, b.lastKeys = after, keyed

	bare := (before.rate + after.rate) / 2
	c.Ratio = append(c.Ratio, mine.rate/bare)
	c.Rate, c.BareRate = append(c.Rate, mine.rate), append(c.BareRate, bare)
	c.Allocs, c.BareAllocs = append(c.Allocs, mine.allocs), append(c.BareAllocs, (before.allocs+after.allocs)/2)
	if mine.cpuKnown {
		c.CPU, c.BareCPU = append(c.CPU, mine.cpu), append(c.BareCPU, (before.cpu+after.cpu)/2)
	}
	return nil
}

func (b *bench) latency(ctx context.Context, l *Latency) error {
	micro := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	before, err := b.measure(ctx, b.bare, load.FreshKeys, 1, false)
	if err != nil {
		return err
	}
	sync1, err := rig.SyncTime(b.Dir, b.Syncs)
	if err != nil {
		return err
	}
	mine, err := b.measureIdem(ctx, "file", load.FreshKeys, 1)
	if err != nil {
		return err
	}
	sync2, err := rig.SyncTime(b.Dir, b.Syncs)
	if err != nil {
		return err
	}
	after, err := b.measure(ctx, b.bare, load.FreshKeys, 1, false)
	if err != nil {
		return err
	}
	idem, bare, sync := micro(mine.median), micro(before.median+after.median)/2, micro(sync1+sync2)/2
	l.Idem, l.Bare, l.Sync = append(l.Idem, idem), append(l.Bare, bare), append(l.Sync, sync)
	l.Over = append(l.Over, idem-bare-2*sync)
	return nil
}

// measureIdem measures a proxy of its own, with an empty store where the store is
// the proxy's, and new keys in any case.
func (b *bench) measureIdem(ctx context.Context, store string, keys load.Keys, conns int) (m *measured, err error) {
	dsn := "memory:"
	switch {
	case b.DSNs[store] != "":
		dsn = b.DSNs[store]
	case store == "file":
		dir, err := os.MkdirTemp(b.Dir, "store-")
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		dsn = "file:" + filepath.Join(dir, "records")
	}
	p, err := rig.Start(ctx, b.Binaries.Idem, "proxy", "--upstream", "http://"+b.upstream.Addr,
		"--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--store", dsn, "--log", "json")
	if err != nil {
		return nil, err
	}
	m, err = b.measure(ctx, p, keys, conns, true)
	err = errors.Join(err, p.Stop())
	if err != nil {
		err = fmt.Errorf("%w: %s", err, p.Said())
	}
	return m, err
}

// measure runs the load against one proxy, and holds what the upstream counted
// against what the load sent.
func (b *bench) measure(ctx context.Context, p *rig.Process, keys load.Keys, conns int, idem bool) (*measured, error) {
	hits, err := b.upstream.Counter(ctx, "upstream_requests_total")
	if err != nil {
		return nil, err
	}
	var before, after spent
	res, err := load.Run(ctx, load.Options{
		Addr: p.Addr, Conns: conns, Warmup: b.Warmup, Duration: b.Duration, Keys: keys, Replays: idem,
		Prefix: prefix(), ResponseSize: responseSize,
		Measuring: func() { before.read(ctx, p) },
		Measured:  func() { after.read(ctx, p) },
	})
	if err := errors.Join(err, before.err, after.err); err != nil {
		return nil, err
	}
	hitsAfter, err := b.upstream.Counter(ctx, "upstream_requests_total")
	if err != nil {
		return nil, err
	}
	sent := res.Total
	if idem && keys == load.RepeatedKeys {
		sent = int64(conns) * load.RepeatedPerConn
	}
	if got := int64(hitsAfter - hits); got != sent {
		return nil, fmt.Errorf("the upstream ran %d requests, want %d of the %d sent", got, sent, res.Total)
	}
	n := float64(res.Counted)
	return &measured{
		rate:     res.Rate(),
		allocs:   (after.mallocs - before.mallocs) / n,
		cpu:      float64((after.cpu - before.cpu).Microseconds()) / n,
		cpuKnown: before.cpuKnown && after.cpuKnown,
		median:   res.Latency.Quantile(0.5),
	}, nil
}

// spent is what a process has used so far.
type spent struct {
	mallocs  float64
	cpu      time.Duration
	cpuKnown bool
	err      error
}

func (s *spent) read(ctx context.Context, p *rig.Process) {
	s.mallocs, s.err = p.Counter(ctx, "go_memstats_mallocs_total")
	s.cpu, s.cpuKnown = p.CPU()
}

// prefix tells the keys of one run from those of all others.
func prefix() string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], rand.Uint64())
	return hex.EncodeToString(b[:])
}
