package redisstore_test

import (
	"testing"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/redisstore"
	"github.com/idem-go/idem/testserver"
)

// BenchmarkStore measures the store on a server of its own that writes nothing
// to disk: what its disk adds is the disk's.
func BenchmarkStore(b *testing.B) {
	server, err := testserver.Redis(&testserver.Options{Settings: map[string]string{"appendonly": "no"}})
	if !testserver.Need(b, "redis", err) {
		return
	}
	client := connect(b, server.DSN())
	drivertest.RunBenchmarks(b, func(t testing.TB) driver.Store {
		return newBed(t, client, redisstore.Options{})
	})
}
