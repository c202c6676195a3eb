// Command bench measures idem beside what it is compared with, all on this
// machine and within one run, and writes docs/performance.md and its picture.
//
// BENCH_QUICK=1 makes each measurement so short that its figures say nothing:
// it shows that everything runs. Pages are not written then, unless -docs says
// where.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/idem-go/idem/bench/internal/allocs"
	"github.com/idem-go/idem/bench/internal/proxies"
	"github.com/idem-go/idem/bench/internal/report"
	"github.com/idem-go/idem/bench/internal/rig"
	"github.com/idem-go/idem/bench/internal/servers"
	"github.com/idem-go/idem/bench/internal/stores"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	s := full()
	if os.Getenv("BENCH_QUICK") == "1" {
		s = quick()
	}
	flag.StringVar(&s.docs, "docs", s.docs, "the directory of performance.md and performance.svg; the project's docs by default, - writes none")
	flag.StringVar(&s.dir, "dir", s.dir, "where the stores are made; its disk is the one that is measured")
	flag.IntVar(&s.rounds, "rounds", s.rounds, "how often each comparison is repeated")
	check := flag.Bool("check", false, "exit 1 where a budget is missed")
	flag.Parse()
	r, err := run(ctx, s, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if missed := r.Missed(); len(missed) > 0 {
		fmt.Println("Budgets missed: " + strings.Join(missed, "; ") + ".")
		if *check {
			os.Exit(1)
		}
	}
}

// settings are how long everything takes, and where it is written.
type settings struct {
	docs, dir        string
	rounds           int
	warmup, duration time.Duration
	syncs            int
	storeRounds      int
	storeDuration    time.Duration
	many             int // keys that a store of a server holds
	requests         int // of which allocations are counted
	command          string
}

func full() settings {
	return settings{
		rounds: 6, warmup: 400 * time.Millisecond, duration: 2 * time.Second, syncs: 400,
		storeRounds: 5, storeDuration: 1500 * time.Millisecond, many: 1_000_000, requests: 50_000, command: "make bench",
	}
}

func quick() settings {
	return settings{
		docs: "-", rounds: 1, warmup: 50 * time.Millisecond, duration: 100 * time.Millisecond, syncs: 20,
		storeRounds: 1, storeDuration: 100 * time.Millisecond, many: 2000, requests: 1000, command: "BENCH_QUICK=1 make bench",
	}
}

// run measures everything, prints the tables to out, and writes the pages.
func run(ctx context.Context, s settings, out, progress io.Writer) (r *report.Report, err error) {
	root, err := rig.Root(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(s.dir, "idem-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	log := func(format string, args ...any) {
		_, _ = fmt.Fprintf(progress, format+"\n", args...) // told for company, not for the record
	}
	log("building the programs")
	binaries, err := rig.Build(ctx, root, dir)
	if err != nil {
		return nil, err
	}
	log("starting PostgreSQL, MariaDB and Redis")
	running, err := servers.Start()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, running.Stop()) }()
	dsns, err := running.Prepare(ctx)
	if err != nil {
		return nil, err
	}
	r = &report.Report{Machine: report.ThisMachine(), Command: s.command, Began: time.Now(), Rounds: s.rounds, Duration: s.duration}
	if r.Proxies, err = proxies.Compare(ctx, proxies.Options{
		Binaries: binaries, Dir: dir, Rounds: s.rounds, Warmup: s.warmup, Duration: s.duration, Syncs: s.syncs, Log: log, DSNs: dsns,
	}); err != nil {
		return nil, err
	}
	if r.Stores, err = stores.Compare(ctx, stores.Options{
		Dir: dir, Callers: []int{1, 64, 256}, Rounds: s.storeRounds, Duration: s.storeDuration, Log: log,
	}); err != nil {
		return nil, err
	}
	if r.Shared, err = servers.Compare(ctx, running, servers.Options{
		Rounds: s.storeRounds, Duration: s.storeDuration, Many: s.many, Log: log,
	}); err != nil {
		return nil, err
	}
	log("measuring what records take")
	if r.Sizes, err = servers.Sizes(ctx, running, s.many/10); err != nil {
		return nil, err
	}
	if r.Allocs, err = allocs.Measure(s.requests); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(out, r.Markdown()); err != nil {
		return nil, err
	}
	switch s.docs {
	case "-":
		return r, nil
	case "":
		s.docs = filepath.Join(root, "docs")
	}
	return r, write(r, s.docs)
}

// write puts the tables into the page, and the picture beside it.
func write(r *report.Report, docs string) error {
	path := filepath.Join(docs, "performance.md")
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if page, err = report.Insert(page, r.Markdown()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := os.WriteFile(path, page, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(docs, "performance.svg"), r.SVG(), 0o644)
}
