package mysqlstore_test

import (
	"testing"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/drivertest/linearize"
	"github.com/idem-go/idem/mysqlstore"
)

// dialect is a way in which the store speaks to a server.
type dialect struct {
	name string
	bed  *bed
	with mysqlstore.Options
}

// dialects are MariaDB with what it has, MariaDB as if it were MySQL, and a MySQL
// 8 where there is one.
func dialects(t *testing.T) []dialect {
	t.Helper()
	var all []dialect
	if b := mariadb(t); b != nil {
		all = append(all, dialect{"mariadb", b, mysqlstore.Options{}}, dialect{"plain", b, mysqlstore.Options{}.Plain()})
	}
	if b := bedOf(t, "mysql8", mysql8); b != nil {
		all = append(all, dialect{"mysql8", b, mysqlstore.Options{}})
	}
	return all
}

func TestConformance(t *testing.T) {
	for _, d := range dialects(t) {
		t.Run(d.name, func(t *testing.T) { drivertest.Run(t, d.bed.harness(d.with)) })
	}
}

func TestTxConformance(t *testing.T) {
	for _, d := range dialects(t) {
		t.Run(d.name, func(t *testing.T) { drivertest.RunTx(t, d.bed.txHarness(d.with)) })
	}
}

func TestModel(t *testing.T) {
	for _, d := range dialects(t) {
		o := &drivertest.ModelOptions{Histories: 12, Steps: 300}
		if testing.Short() {
			o.Histories = 4
		}
		t.Run(d.name, func(t *testing.T) { drivertest.RunModel(t, d.bed.harness(d.with), o) })
	}
}

func TestLinearizable(t *testing.T) {
	for _, d := range dialects(t) {
		t.Run(d.name, func(t *testing.T) { linearize.Run(t, d.bed.harness(d.with), &linearize.Options{Rounds: 60}) })
	}
}

// Callers in several processes on one server.
func TestLinearizableAcrossProcesses(t *testing.T) {
	for _, d := range dialects(t) {
		mode := "with"
		if d.name == "plain" {
			mode = "plain"
		}
		t.Run(d.name, func(t *testing.T) {
			h := d.bed.harness(d.with)
			h.New = func(t testing.TB) driver.Store {
				return drivertest.Processes(t, 3, mode+"|"+d.bed.tables(t)+"|"+d.bed.server.DSN())
			}
			linearize.Run(t, h, &linearize.Options{Rounds: 40})
		})
	}
}
