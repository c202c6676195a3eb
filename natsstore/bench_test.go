package natsstore_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/natsstore"
)

// BenchmarkStore is on a server in this process.
func BenchmarkStore(b *testing.B) {
	drivertest.RunBenchmarks(b, func(t testing.TB) driver.Store { return newBed(t, natsstore.Options{SweepEvery: -1}) })
}

// BenchmarkStoreOnAProcess is on a server that is a process of its own, on this
// machine.
func BenchmarkStoreOnAProcess(b *testing.B) {
	srv := alone(b)
	if srv == nil {
		return
	}
	drivertest.RunBenchmarks(b, func(t testing.TB) driver.Store {
		_, dsn := migrated(t, one(srv), "")
		return opened(t, dsn, &natsstore.Options{SweepEvery: -1})
	})
}

// BenchmarkStoreOnACluster is on three servers on this machine, with three
// replicas.
func BenchmarkStoreOnACluster(b *testing.B) {
	c := startCluster(b)
	if c == nil {
		return
	}
	drivertest.RunBenchmarks(b, func(t testing.TB) driver.Store {
		_, dsn := migrated(t, one(c.Server), "?replicas=3")
		return opened(t, dsn, &natsstore.Options{SweepEvery: -1})
	})
}

// BenchmarkBytes is what the bucket takes on disk for a record with a result of
// 1 KiB, for a tombstone, and for a claim in flight, by the server's own count:
// -benchtime=20000x.
func BenchmarkBytes(b *testing.B) {
	kinds := map[string]func(bed *bed, req driver.ClaimRequest, ref driver.Ref){
		"completed": func(bed *bed, req driver.ClaimRequest, ref driver.Ref) {
			complete(b, bed, ref, completion(req, string(make([]byte, 1024-3))))
		},
		"tombstone": func(bed *bed, req driver.ClaimRequest, ref driver.Ref) {
			complete(b, bed, ref, completion(req, ""))
			if _, err := bed.Resolve(b.Context(), req.Key, driver.Resolution{Action: driver.ResolveErase, Retention: time.Hour, Tombstone: time.Hour}); err != nil {
				b.Fatal(err)
			}
		},
		"in-flight": func(*bed, driver.ClaimRequest, driver.Ref) {},
	}
	for kind, end := range kinds {
		b.Run(kind, func(b *testing.B) {
			bed := newBed(b, quiet())
			before, err := bed.stream(b).Info(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			for i := range b.N {
				req := request(fmt.Sprintf("8e03978e-40d5-43e8-bc93-%012d", i))
				req.Scope = "host/tenant"
				end(bed, req, grant(b, bed, req))
			}
			after, err := bed.stream(b).Info(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(after.State.Bytes-before.State.Bytes)/float64(b.N), "bytes/record")
		})
	}
}
