package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/cmd/idem/internal/metrics"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/memstore"
)

func scrape(t *testing.T, m *metrics.Metrics) string {
	t.Helper()
	srv := httptest.NewServer(m.Handler())
	defer srv.Close()
	res, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("%s %v %s", res.Status, err, b)
	}
	return string(b)
}

func wantLines(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(text, "\n"+line+"\n") {
			name, _, _ := strings.Cut(line, " ")
			var got []string
			for _, l := range strings.Split(text, "\n") {
				if strings.HasPrefix(l, name) {
					got = append(got, l)
				}
			}
			t.Errorf("no line %q; there is %q", line, got)
		}
	}
}

// What a guard does is counted, and what its store holds is told.
func TestOperationsAreCounted(t *testing.T) {
	ctx := context.Background()
	store := memstore.New(nil)
	m := metrics.New(store, &metrics.Options{Version: "v9", Requests: func() int64 { return 3 }})
	guard := idem.New(store, &idem.Options{Observer: m, Logger: slog.New(slog.DiscardHandler)})
	do := func(id string, err error) {
		_, _ = idem.Do(ctx, guard, idem.Request{Key: idem.Key{Scope: "s", ID: id}, Route: "users"}, func(context.Context) (int, error) { return 1, err })
	}
	do("a", nil)
	do("a", nil)
	do("a", nil)
	do("b", idem.ReleaseError(errors.New("not now")))
	do("c", errors.New("who knows"))
	do("c", nil)
	b, err := guard.Begin(ctx, &idem.Request{Key: idem.Key{Scope: "s", ID: "d"}, Route: "users"})
	if err != nil {
		t.Fatal(err)
	}
	text := scrape(t, m)
	wantLines(t, text,
		`idem_claims_total{route="users"} 4`,
		`idem_operations_total{outcome="ran",route="users"} 1`,
		`idem_operations_total{outcome="replayed",route="users"} 2`,
		`idem_operations_total{outcome="released",route="users"} 1`,
		`idem_operations_total{outcome="abandoned",route="users"} 1`,
		`idem_operations_total{outcome="unknown",route="users"} 1`,
		`idem_operations_total{outcome="lost",route="users"} 0`,
		`idem_begin_seconds_count{route="users"} 7`,
		`idem_claim_held_seconds_count{route="users"} 3`,
		`idem_store_records{state="completed"} 1`,
		`idem_store_records{state="unknown"} 1`,
		`idem_store_records{state="in-flight"} 1`,
		`idem_store_records{state="forgotten"} 0`,
		`idem_store_up 1`,
		`idem_store_full 0`,
		`idem_requests_in_flight 3`,
		`idem_build_info{version="v9"} 1`,
	)
	for _, name := range []string{"go_goroutines ", "process_open_fds ", "idem_store_oldest_unknown_seconds ", "idem_store_bytes "} {
		if !strings.Contains(text, "\n"+name) {
			t.Errorf("no %s", name)
		}
	}
	if err := b.Claim.Complete(idem.Result{}); err != nil {
		t.Fatal(err)
	}
}

// Every word that the core may say has its series.
func TestEveryKindIsCounted(t *testing.T) {
	m := metrics.New(memstore.New(nil), nil)
	kinds := []idem.EventKind{
		idem.EventRan, idem.EventLate, idem.EventReplayed, idem.EventShared, idem.EventInFlight, idem.EventReused,
		idem.EventUnknown, idem.EventAbandoned, idem.EventReleased, idem.EventLost, idem.EventUnsaved, idem.EventForgotten,
		idem.EventNotStored, idem.EventUnreadable, idem.EventOverloaded, idem.EventStore, idem.EventResolved,
	}
	for _, k := range kinds {
		m.Observe(context.Background(), idem.Event{Kind: k})
	}
	m.Observe(context.Background(), idem.Event{Kind: "of-a-newer-core"})
	text := scrape(t, m)
	for _, k := range kinds {
		wantLines(t, text, fmt.Sprintf(`idem_operations_total{outcome="%s",route=""} 1`, k))
	}
	if strings.Contains(text, "of-a-newer-core") {
		t.Error("a kind that nobody knows became a label")
	}
}

// However many routes there are, the series stay few.
func TestRoutesAreBounded(t *testing.T) {
	m := metrics.New(memstore.New(nil), nil)
	for i := range 1000 {
		m.Observe(context.Background(), idem.Event{Kind: idem.EventRan, Route: fmt.Sprintf("/users/%d", i)})
	}
	text := scrape(t, m)
	if n := strings.Count(text, "\nidem_claims_total{"); n > 101 {
		t.Errorf("%d routes have series", n)
	}
	wantLines(t, text, `idem_operations_total{outcome="ran",route="other"} 900`)
}

func TestStoreThatDoesNotAnswer(t *testing.T) {
	store := memstore.New(nil)
	m := metrics.New(store, nil)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	text := scrape(t, m)
	wantLines(t, text, "idem_store_up 0")
	if strings.Contains(text, "\nidem_store_records") {
		t.Error("a store that does not answer is said to hold nothing")
	}
}

// A full store answers: its replays go on.
func TestStoreThatIsFull(t *testing.T) {
	store := memstore.New(&memstore.Options{MaxUnknown: 1})
	guard := idem.New(store, &idem.Options{Logger: slog.New(slog.DiscardHandler)})
	b, err := guard.Begin(context.Background(), &idem.Request{Key: idem.Key{ID: "k"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Claim.Abandon(); err != nil {
		t.Fatal(err)
	}
	wantLines(t, scrape(t, metrics.New(store, nil)), "idem_store_up 1", "idem_store_full 1", `idem_store_records{state="unknown"} 1`)
}

// A store that keeps only what it must tells nothing, and breaks nothing.
func TestPlainStore(t *testing.T) {
	type plain struct{ driver.Store }
	if text := scrape(t, metrics.New(plain{memstore.New(nil)}, nil)); strings.Contains(text, "idem_store_") {
		t.Error("something is told of a store that says nothing")
	}
}
