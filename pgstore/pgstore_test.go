package pgstore_test

import (
	"testing"

	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/drivertest/linearize"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	if b := bedOf(t, shared); b != nil {
		drivertest.Run(t, b.harness())
	}
}

func TestTxConformance(t *testing.T) {
	t.Parallel()
	if b := bedOf(t, shared); b != nil {
		drivertest.RunTx(t, b.txHarness())
	}
}

func TestDBConformance(t *testing.T) {
	t.Parallel()
	if b := bedOf(t, shared); b != nil {
		drivertest.Run(t, b.dbHarness(b.sql))
	}
}

func TestDBTxConformance(t *testing.T) {
	t.Parallel()
	if b := bedOf(t, shared); b != nil {
		drivertest.RunTx(t, b.dbTxHarness(b.sql))
	}
}

func histories(n int) *drivertest.ModelOptions {
	if testing.Short() {
		n = (n + 4) / 5
	}
	return &drivertest.ModelOptions{Histories: n, Steps: 300}
}

func TestModel(t *testing.T) {
	t.Parallel()
	if b := bedOf(t, shared); b != nil {
		drivertest.RunModel(t, b.harness(), histories(12))
	}
}

func TestDBModel(t *testing.T) {
	t.Parallel()
	if b := bedOf(t, shared); b != nil {
		drivertest.RunModel(t, b.dbHarness(b.sql), histories(4))
	}
}

func rounds(n int) *linearize.Options {
	if testing.Short() {
		n /= 5
	}
	return &linearize.Options{Rounds: n}
}

func TestLinearizable(t *testing.T) {
	t.Parallel()
	if b := bedOf(t, shared); b != nil {
		linearize.Run(t, b.harness(), rounds(100))
	}
}

func TestDBLinearizable(t *testing.T) {
	t.Parallel()
	if b := bedOf(t, shared); b != nil {
		linearize.Run(t, b.dbHarness(b.sql), rounds(50))
	}
}
