// Package report puts what was measured into words, tables and a picture.
package report

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/idem-go/idem/bench/internal/allocs"
	"github.com/idem-go/idem/bench/internal/proxies"
	"github.com/idem-go/idem/bench/internal/servers"
	"github.com/idem-go/idem/bench/internal/stats"
	"github.com/idem-go/idem/bench/internal/stores"
)

// Report is one whole run.
type Report struct {
	Machine Machine
	// Command is how the run was started.
	Command string
	// Began is when; Rounds and Duration are those of the proxies.
	Began    time.Time
	Rounds   int
	Duration time.Duration
	Proxies  *proxies.Results
	Stores   []stores.Comparison
	Shared   []servers.Comparison
	Sizes    []servers.Size
	Allocs   []allocs.Count
}

// Machine is where it ran.
type Machine struct {
	Cores           int
	CPU, Kernel, Go string
}

// ThisMachine describes the machine of this process, as far as it tells.
func ThisMachine() Machine {
	m := Machine{Cores: runtime.NumCPU(), CPU: "unknown CPU", Kernel: runtime.GOOS, Go: runtime.Version()}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = "Linux " + strings.TrimSpace(string(text))
	}
	return m
}

// budget is what a figure must keep, and what it is meant to reach.
type budget struct{ floor, goal float64 }

func proxyBudget(scenario string) budget {
	return map[string]budget{
		"no key":                {0.9, 0.95},
		"fresh keys, memory:":   {0.85, 0.93},
		"fresh keys, file:":     {0.5, 0.65},
		"fresh keys, redis:":    {0.7, 0.7},
		"fresh keys, postgres:": {0.4, 0.4},
		"replays, memory:":      {2.5, 3.0},
		"replays, redis:":       {0, 1},
		"replays, postgres:":    {0, 1},
		"replays, file:":        {0, 2.5},
	}[scenario]
}

const (
	// latencyBudget is in microseconds, over the bare proxy and two syncs.
	latencyBudget = 150
	// storesBudget is a ratio, at storesCallers callers.
	storesBudget  = 15
	storesCallers = 64
)

// verdict is what is said beside a figure that should be at least so much.
func (b budget) verdict(v float64) string {
	switch {
	case v >= b.goal:
		return "reached"
	case v >= b.floor:
		return "kept, goal not reached"
	}
	return "**missed**"
}

// Missed names the figures that do not keep their budgets.
func (r *Report) Missed() []string {
	var missed []string
	for _, c := range r.Proxies.Comparisons {
		if v := c.Ratio.Median(); v < proxyBudget(c.Name).floor {
			missed = append(missed, fmt.Sprintf("%s: %.2f, at least %.2f", c.Name, v, proxyBudget(c.Name).floor))
		}
	}
	for _, c := range r.Stores {
		if v := c.Ratio.Median(); c.Callers == storesCallers && v < storesBudget {
			missed = append(missed, fmt.Sprintf("file store at %d callers: %.1f times bbolt, at least %d", c.Callers, v, storesBudget))
		}
	}
	for _, c := range r.Shared {
		if v := c.Ratio.Median(); v < c.AtLeast {
			missed = append(missed, fmt.Sprintf("%s at %d callers: %.2f of %s, at least %.2f", c.Name, c.Callers, v, c.Peer, c.AtLeast))
		}
	}
	for _, c := range r.Allocs {
		if !c.Met() {
			missed = append(missed, fmt.Sprintf("middleware, %s: %.1f allocations more, at most %.0f", c.Name, c.Added(), c.Budget))
		}
	}
	return missed
}

// Markdown returns the tables.
func (r *Report) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured on %s with `%s`: %s, %d cores, %s, %s. %d rounds of %v a measurement; ratios are medians, with the least and the greatest of the rounds in parentheses.\n\n",
		r.Began.UTC().Format("2 January 2006"), r.Command, r.Machine.CPU, r.Machine.Cores, r.Machine.Kernel, r.Machine.Go, r.Rounds, r.Duration)
	r.rates(&b)
	r.costs(&b)
	r.latency(&b)
	r.stores(&b)
	r.shared(&b)
	r.sizes(&b)
	r.allocations(&b)
	return b.String()
}

func (r *Report) rates(b *strings.Builder) {
	fmt.Fprintf(b, "### Through the proxy, %d connections\n\n", proxies.Conns)
	b.WriteString("| requests | bare proxy, answers/s | idem, answers/s | ratio | budget | goal | |\n|---|---:|---:|---:|---:|---:|---|\n")
	for _, c := range r.Proxies.Comparisons {
		g := proxyBudget(c.Name)
		floor, goal, verdict := "–", "–", ""
		if g.floor > 0 {
			floor = fmt.Sprintf("%.2f", g.floor)
		}
		if g.goal > 0 {
			goal, verdict = fmt.Sprintf("%.2f", g.goal), g.verdict(c.Ratio.Median())
		}
		fmt.Fprintf(b, "| %s | %.0f | %.0f | %s | %s | %s | %s |\n", c.Name, c.BareRate.Median(), c.Rate.Median(),
			ranged(c.Ratio, "%.2f"), floor, goal, verdict)
	}
	b.WriteString("\n")
}

func (r *Report) costs(b *strings.Builder) {
	b.WriteString("What the proxy's process spends on one request of those:\n\n")
	b.WriteString("| requests | bare proxy, µs of CPU | idem, µs of CPU | bare proxy, allocations | idem, allocations |\n|---|---:|---:|---:|---:|\n")
	for _, c := range r.Proxies.Comparisons {
		fmt.Fprintf(b, "| %s | %.1f | %.1f | %.1f | %.1f |\n", c.Name, c.BareCPU.Median(), c.CPU.Median(), c.BareAllocs.Median(), c.Allocs.Median())
	}
	fmt.Fprintf(b, "\nA net/http server with a handler alone allocates %.1f times for such a request.\n\n", r.Proxies.HandlerAllocs)
}

func (r *Report) latency(b *strings.Builder) {
	l := r.Proxies.Latency
	over := l.Over.Median()
	verdict := "kept"
	if over > latencyBudget {
		verdict = "**missed**"
	}
	b.WriteString("### One connection, fresh keys, `file:`\n\n")
	b.WriteString("| | median, µs |\n|---|---:|\n")
	fmt.Fprintf(b, "| idem | %s |\n| bare proxy | %s |\n| one sync of this disk | %s |\n", ranged(l.Idem, "%.0f"), ranged(l.Bare, "%.0f"), ranged(l.Sync, "%.0f"))
	fmt.Fprintf(b, "| idem, over the bare proxy and two syncs | %s; goal: at most %d, %s |\n\n", ranged(l.Over, "%.0f"), latencyBudget, verdict)
}

func (r *Report) stores(b *strings.Builder) {
	b.WriteString("### The file store, claim and completion with 1 KiB, each synced\n\n")
	b.WriteString("| callers | file store, pairs/s | bbolt, one Update an operation | ratio | budget | |\n|---:|---:|---:|---:|---:|---|\n")
	for _, c := range r.Stores {
		floor, verdict := "–", ""
		if c.Callers >= storesCallers {
			floor = fmt.Sprint(storesBudget)
			verdict = budget{storesBudget, storesBudget}.verdict(c.Ratio.Median())
		}
		fmt.Fprintf(b, "| %d | %.0f | %.0f | %s | %s | %s |\n", c.Callers, c.File.Median(), c.Bolt.Median(), ranged(c.Ratio, "%.1f"), floor, verdict)
	}
	b.WriteString("\n")
}

func (r *Report) shared(b *strings.Builder) {
	b.WriteString("### The stores of servers, beside what one would write by hand\n\n")
	b.WriteString("| what, with | callers | a second | the peer's | ratio | at least | |\n|---|---:|---:|---:|---:|---:|---|\n")
	for _, c := range r.Shared {
		least, verdict := "–", ""
		if c.AtLeast > 0 {
			least = fmt.Sprintf("%.2f", c.AtLeast)
			verdict = budget{c.AtLeast, c.AtLeast}.verdict(c.Ratio.Median())
		}
		fmt.Fprintf(b, "| %s; %s | %d | %.0f | %.0f | %s | %s | %s |\n", c.Name, c.Peer, c.Callers, c.Mine.Median(), c.Theirs.Median(),
			ranged(c.Ratio, "%.2f"), least, verdict)
	}
	b.WriteString("\n")
}

func (r *Report) sizes(b *strings.Builder) {
	b.WriteString("### What records take, in bytes each, with indexes, compacted\n\n")
	b.WriteString("| engine | records | completed, with a result of 1 KiB | tombstone, as a sweep leaves it |\n|---|---:|---:|---:|\n")
	for _, s := range r.Sizes {
		fmt.Fprintf(b, "| %s | %d | %.0f | %.0f |\n", s.Name, s.Records, s.Completed, s.Tombstone)
	}
	b.WriteString("\n")
}

func (r *Report) allocations(b *strings.Builder) {
	b.WriteString("### Allocations of the middleware, `memory:`, over a handler that does nothing\n\n")
	b.WriteString("| request | added | budget | |\n|---|---:|---:|---|\n")
	for _, c := range r.Allocs {
		verdict := "kept"
		if !c.Met() {
			verdict = "**missed**"
		}
		fmt.Fprintf(b, "| %s | %.1f | %.0f | %s |\n", c.Name, c.Added(), c.Budget, verdict)
	}
	b.WriteString("\n")
}

func ranged(s stats.Sample, format string) string {
	return fmt.Sprintf(format+" ("+format+"–"+format+")", s.Median(), s.Min(), s.Max())
}

// What stands between these lines of a page is written by Insert.
const (
	beginMark = "<!-- bench: what follows is written by make bench -->"
	endMark   = "<!-- bench: end -->"
)

// Insert puts text between the marks of a page.
func Insert(page []byte, text string) ([]byte, error) {
	begin, end := bytes.Index(page, []byte(beginMark)), bytes.Index(page, []byte(endMark))
	if begin < 0 || end < begin {
		return nil, errors.New("report: the page has no place for the tables: a line " + beginMark + ", and one " + endMark)
	}
	out := append([]byte(nil), page[:begin+len(beginMark)]...)
	out = append(out, "\n\n"...)
	out = append(out, strings.TrimSpace(text)...)
	out = append(out, "\n\n"...)
	return append(out, page[end:]...), nil
}
