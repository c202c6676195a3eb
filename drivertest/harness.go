package drivertest

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idem-go/idem/driver"
)

// Harness says how the tests make and handle a store. New and Advance are
// required; whatever else is nil leaves out what needs it, which is logged.
// Its functions are called from the goroutine of the test that they are given.
type Harness struct {
	// New returns a fresh, empty store, and arranges with t.Cleanup that it is
	// closed. To test what a store says of results that are too large, its limit
	// should be from 4 KiB to 1 MiB.
	New func(t testing.TB) driver.Store

	// Advance lets d pass for the store: by sleeping inside of a bubble of
	// testing/synctest, by moving a clock that the store was given, or by moving
	// the times in its rows. At least d has passed for the store when it returns.
	Advance func(t testing.TB, s driver.Store, d time.Duration)

	// Slack is how much more time than was asked for may pass for the store
	// between two calls, because its clock runs on by itself or is coarse. With 0
	// time is exact: the tests look one nanosecond before and exactly at each
	// boundary. It must be less than 30 s.
	Slack time.Duration

	// Around runs f, which is one test, in the surroundings it needs, such as a
	// bubble of testing/synctest; nil calls f directly.
	Around func(t *testing.T, f func(t *testing.T))

	// Reopen closes s, or lets it crash, and opens the same data again; nil for
	// a store that is not durable.
	Reopen func(t testing.TB, s driver.Store) driver.Store

	// NewBounded is New for a store that keeps at most maxUnknown records whose
	// outcome is unknown; nil for a store without that bound.
	NewBounded func(t testing.TB, maxUnknown int) driver.Store
}

// Bubble returns the harness of a store that keeps its time with package time,
// in this process: each test runs in a bubble of testing/synctest, in which
// hours pass in no time and exactly. newStore must start no goroutine that
// outlives the store, and close the store with t.Cleanup.
func Bubble(newStore func(t testing.TB) driver.Store) Harness {
	return Harness{
		New: newStore,
		Advance: func(_ testing.TB, _ driver.Store, d time.Duration) {
			time.Sleep(d)
		},
		Around: synctest.Test,
	}
}

// Run tests that a store keeps the contract of package driver: each rule is a
// subtest of its own, on a fresh store. The optional interfaces of the driver
// are tested where the store has them; those it lacks are logged.
func Run(t *testing.T, h Harness) {
	t.Helper()
	h.check(t)
	h.around(t, func(t *testing.T) {
		for _, name := range missing(h) {
			t.Logf("drivertest: not tested, because it is absent: %s", name)
		}
		s := h.New(t)
		for _, name := range lacking(s) {
			t.Logf("drivertest: not tested, because the store does not implement it: %s", name)
		}
	})
	for _, g := range groups() {
		t.Run(g.name, func(t *testing.T) {
			for _, r := range g.rules {
				t.Run(r.name, func(t *testing.T) {
					h.around(t, func(t *testing.T) { r.run(t, h) })
				})
			}
		})
	}
}

func (h Harness) check(t testing.TB) {
	t.Helper()
	if h.New == nil || h.Advance == nil {
		t.Fatal("drivertest: a harness needs New and Advance")
	}
	if h.Slack < 0 || h.Slack >= 30*time.Second {
		t.Fatalf("drivertest: slack %v is not in 0 to 30s", h.Slack)
	}
}

func (h Harness) around(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if h.Around == nil {
		f(t)
		return
	}
	h.Around(t, f)
}

// group is the rules of one subject.
type group struct {
	name  string
	rules []rule
}

// rule is one test. It is a plain value, and takes a testing.TB, so that the
// suite's own tests can run it against stores that break it.
type rule struct {
	name string
	test func(e *env)
}

func (r rule) run(t testing.TB, h Harness) {
	t.Helper()
	e := &env{TB: t, h: h, ctx: context.WithoutCancel(t.Context())}
	e.s = h.New(t)
	r.test(e)
}

func groups() []group {
	return []group{
		{"Claim", claimRules()},
		{"Nonce", nonceRules()},
		{"Lease", leaseRules()},
		{"Token", tokenRules()},
		{"Complete", completeRules()},
		{"Release", releaseRules()},
		{"Abandon", abandonRules()},
		{"Unknown", unknownRules()},
		{"Expiry", expiryRules()},
		{"States", stateRules()},
		{"Fingerprint", fingerprintRules()},
		{"Key", keyRules()},
		{"Bytes", bytesRules()},
		{"Argument", argumentRules()},
		{"Context", contextRules()},
		{"Race", raceRules()},
		{"Wait", waitRules()},
		{"Resolve", resolveRules()},
		{"List", listRules()},
		{"Sweep", sweepRules()},
		{"Count", countRules()},
		{"Reopen", reopenRules()},
		{"Close", closeRules()},
	}
}

func missing(h Harness) []string {
	var names []string
	if h.Reopen == nil {
		names = append(names, "Harness.Reopen")
	}
	if h.NewBounded == nil {
		names = append(names, "Harness.NewBounded")
	}
	return names
}

func lacking(s driver.Store) []string {
	var names []string
	note := func(name string, has bool) {
		if !has {
			names = append(names, name)
		}
	}
	_, has := driver.As[driver.Waiter](s)
	note("driver.Waiter", has)
	_, has = driver.As[driver.Resolver](s)
	note("driver.Resolver", has)
	_, has = driver.As[driver.Lister](s)
	note("driver.Lister", has)
	_, has = driver.As[driver.Sweeper](s)
	note("driver.Sweeper", has)
	_, has = driver.As[driver.Counter](s)
	note("driver.Counter", has)
	_, has = driver.As[driver.Describer](s)
	note("driver.Describer", has)
	_, has = driver.As[driver.Pinger](s)
	note("driver.Pinger", has)
	return names
}
