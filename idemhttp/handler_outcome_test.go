package idemhttp_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/idemhttp"
)

// H7: what becomes of each status.
func TestStatusDecides(t *testing.T) {
	released := []int{401, 403, 407, 408, 409, 423, 425, 429, 503}
	unknown := []int{502, 504}
	s := serve(t, settings{}, func(w http.ResponseWriter, r *http.Request) {
		var status int
		_, _ = fmt.Sscan(strings.TrimPrefix(r.URL.Path, "/"), &status)
		answerWith(status, "answer")(w, r)
	})
	for status := 200; status < 600; status++ {
		if http.StatusText(status) == "" || status == 204 || status == 304 {
			continue
		}
		path := fmt.Sprint("/", status)
		before := s.runs.Load()
		first, again := s.send(t.Context(), "POST", path, path[1:], nil), s.send(t.Context(), "POST", path, path[1:], nil)
		runs := s.runs.Load() - before
		if first.status != status || first.body != "answer" || first.replayed() {
			t.Errorf("%d: the first got %v", status, first)
		}
		ok := again.replayed() && again.status == status && again.body == "answer" && runs == 1
		switch {
		case slices.Contains(released, status):
			ok = !again.replayed() && again.status == status && runs == 2
		case slices.Contains(unknown, status):
			ok = again.status == 409 && again.problem(idemhttp.TypeOutcomeUnknown) && runs == 1
		}
		if !ok {
			t.Errorf("%d: then %v after %d runs", status, again, runs)
		}
	}
}

// H7: a route's lists win.
func TestStatusLists(t *testing.T) {
	s := serve(t, settings{http: idemhttp.Options{Status: idemhttp.StatusPolicy{Complete: []int{403, 502}, Release: []int{500, 200}, Unknown: []int{404}}}}, func(w http.ResponseWriter, r *http.Request) {
		var status int
		_, _ = fmt.Sscan(strings.TrimPrefix(r.URL.Path, "/"), &status)
		w.WriteHeader(status)
	})
	for status, want := range map[int]string{403: "replay", 502: "replay", 500: "run", 200: "run", 404: "unknown", 201: "replay"} {
		path := fmt.Sprint("/", status)
		before := s.runs.Load()
		s.send(t.Context(), "POST", path, path[1:], nil)
		again := s.send(t.Context(), "POST", path, path[1:], nil)
		got := "run"
		if s.runs.Load()-before == 1 {
			got = "unknown"
			if again.replayed() {
				got = "replay"
			}
		}
		if got != want {
			t.Errorf("%d: %s, want %s: %v", status, got, want, again)
		}
	}
}

type logged struct{ http.ResponseWriter }

func (l *logged) Unwrap() http.ResponseWriter { return l.ResponseWriter }

// SetOutcome decides against the status, through wrappers too.
func TestSetOutcome(t *testing.T) {
	outcomes := map[string]idemhttp.Outcome{"complete": idemhttp.OutcomeComplete, "release": idemhttp.OutcomeRelease, "unknown": idemhttp.OutcomeUnknown}
	s := serve(t, settings{}, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if !idemhttp.SetOutcome(&logged{&logged{w}}, outcomes[string(b)]) {
			t.Error("no record")
		}
		w.WriteHeader(503)
	})
	for name := range outcomes {
		before := s.runs.Load()
		s.post(name, name)
		again := s.post(name, name)
		runs := s.runs.Load() - before
		if ok := map[string]bool{"complete": again.replayed() && runs == 1, "release": runs == 2, "unknown": again.problem(idemhttp.TypeOutcomeUnknown) && runs == 1}[name]; !ok {
			t.Errorf("%s: %v after %d runs", name, again, runs)
		}
	}
}

// O8, trap 4: an owner that was paused past its lease, while another took over,
// never gives its own answer as final.
func TestTrap4LostWhileItRan(t *testing.T) {
	for _, second := range []string{"completes", "still runs", "released"} {
		t.Run(second, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				// Renewals of the first guard do not arrive, as if it were paused.
				g := newGate()
				policy := idem.Policy{Unknown: idem.RetryUnknown, Wait: time.Second}
				runs, goOn := make(chan struct{}, 10), make(chan struct{})
				first := serve(t, settings{bubble: true, store: g, guard: idem.Options{Policy: policy}}, func(w http.ResponseWriter, r *http.Request) {
					runs <- struct{}{}
					<-goOn
					_, _ = io.WriteString(w, "the first's")
				})
				runs2, goOn2 := make(chan struct{}, 10), make(chan struct{})
				status := 200
				if second == "released" {
					status = 503
				}
				other := serve(t, settings{bubble: true, store: g.inner, guard: idem.Options{Policy: policy}}, func(w http.ResponseWriter, r *http.Request) {
					runs2 <- struct{}{}
					<-goOn2
					answerWith(status, "the second's")(w, r)
				})
				g.set(func(op string, call func() error) error {
					if op == "renew" {
						return errStoreDown
					}
					return call()
				})
				a := first.async("k", "b")
				<-runs
				time.Sleep(idem.DefaultLease + time.Second)
				b := other.async("k", "b")
				<-runs2
				if second != "still runs" {
					close(goOn2)
					<-b
				}
				close(goOn)
				r := <-a
				switch second {
				case "completes":
					if r.body != "the second's" || !r.replayed() {
						t.Errorf("the first's client got %v", r)
					}
				case "still runs":
					if r.status != 409 || !r.problem(idemhttp.TypeInFlight) {
						t.Errorf("the first's client got %v", r)
					}
					close(goOn2)
					<-b
				case "released":
					if r.status != 409 || strings.Contains(r.body, "the first's") {
						t.Errorf("the first's client got %v", r)
					}
				}
				first.ran(1)
				other.ran(1)
			})
		})
	}
}

// O8: the record is gone altogether: the work is not done again for the same
// request, and its answer is not told as final.
func TestLostRecordIsNotRunAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := newGate()
		s := serve(t, settings{bubble: true, store: g}, answerWith(200, "done"))
		once := true
		g.set(func(op string, call func() error) error {
			if op == "complete" && once {
				once = false
				return driver.ErrLost
			}
			return call()
		})
		r := s.post("k", "b")
		if r.status != 409 || strings.Contains(r.body, "done") {
			t.Errorf("got %v", r)
		}
		s.ran(1)
	})
	inBubble(t, func(t *testing.T) {
		// The store forgets everything between claim and completion.
		g := newGate()
		s := serve(t, settings{bubble: true, store: g, http: idemhttp.Options{Policy: idem.Policy{Wait: -1}}}, func(w http.ResponseWriter, r *http.Request) {
			g.inner = newGate().inner
			_, _ = io.WriteString(w, "done")
		})
		if r := s.post("k", "b"); r.status != 409 || !r.problem(idemhttp.TypeOutcomeUnknown) {
			t.Errorf("got %v", r)
		}
		if r := s.post("k", "b"); r.status != 409 || !r.problem(idemhttp.TypeOutcomeUnknown) {
			t.Errorf("then %v", r)
		}
		s.ran(1)
	})
}

// An operator resolved the record with another result meanwhile: that one
// counts, for the first client too.
func TestSuperseded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := newGate()
		runs, goOn := make(chan struct{}, 1), make(chan struct{})
		s := serve(t, settings{bubble: true, store: g}, func(w http.ResponseWriter, r *http.Request) {
			runs <- struct{}{}
			<-goOn
			_, _ = io.WriteString(w, "the handler's")
		})
		g.set(func(op string, call func() error) error {
			if op == "renew" {
				return errStoreDown
			}
			return call()
		})
		first := s.async("k", "b")
		<-runs
		time.Sleep(idem.DefaultLease + time.Second)
		rec := onlyRecord(t, g.inner)
		meta := (&idemhttp.Stored{Status: 201, Header: http.Header{"Content-Type": {"text/plain"}}, Length: -1}).AppendMeta(nil)
		resolver, _ := driver.As[driver.Resolver](g.inner)
		if _, err := resolver.Resolve(t.Context(), rec.Key, driver.Resolution{Action: driver.ResolveComplete, Result: driver.Result{Meta: meta, Body: []byte("the operator's")}, Retention: time.Hour, Tombstone: time.Hour}); err != nil {
			t.Fatal(err)
		}
		close(goOn)
		if r := <-first; r.status != 201 || r.body != "the operator's" || !r.replayed() {
			t.Errorf("got %v", r)
		}
		s.ran(1)
	})
}

func onlyRecord(t *testing.T, store driver.Store) driver.Record {
	t.Helper()
	lister, _ := driver.As[driver.Lister](store)
	page, err := lister.List(t.Context(), driver.Query{Limit: 10})
	if err != nil || len(page.Records) != 1 {
		t.Fatalf("records: %v, %v", page.Records, err)
	}
	return page.Records[0]
}

// O2, O3: an owner whose lease ran out is told by its context; when nobody else
// was granted the key its late answer counts.
func TestLateCompletion(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := newGate()
		s := serve(t, settings{bubble: true, store: g}, func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			_, _ = io.WriteString(w, "late")
		})
		g.set(func(op string, call func() error) error {
			if op == "renew" {
				return errStoreDown
			}
			return call()
		})
		r := s.post("k", "b")
		if again := s.post("k", "b"); r.body != "late" || !again.replayed() || again.body != "late" {
			t.Errorf("first %v, then %v", r, again)
		}
		s.ran(1)
	})
}

// The claim is in the handler's context: attempt, and a key for calls
// downstream that is the same at every attempt.
func TestClaimInTheContext(t *testing.T) {
	var derived []string
	s := serve(t, settings{}, func(w http.ResponseWriter, r *http.Request) {
		c, ok := idem.FromContext(r.Context())
		if !ok {
			t.Error("no claim")
			return
		}
		derived = append(derived, c.Derive("charge"))
		w.WriteHeader(503)
		_, _ = fmt.Fprint(w, c.Attempt())
	})
	if a, b := s.post("k", ""), s.post("k", ""); a.body != "1" || b.body != "2" || len(derived) != 2 || derived[0] != derived[1] {
		t.Errorf("%v %v %v", a, b, derived)
	}
}

// Trap 2, W3: after a release without an answer one waiter runs, the others
// wait on.
func TestPartialAnswersAreNotShared(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		runs, goOn := make(chan struct{}, 10), make(chan struct{})
		s := serve(t, settings{bubble: true, http: idemhttp.Options{MaxStoredResponse: 10}}, func(w http.ResponseWriter, r *http.Request) {
			runs <- struct{}{}
			<-goOn
			answerWith(503, "far longer than ten bytes")(w, r)
		})
		first := s.async("k", "b")
		<-runs
		waiter := s.async("k", "b")
		synctest.Wait()
		close(goOn)
		if r := <-first; r.status != 503 || r.body != "far longer than ten bytes" {
			t.Errorf("the first got %v", r)
		}
		if r := <-waiter; r.status != 409 || !r.problem(idemhttp.TypeInFlight) {
			t.Errorf("the waiter got %v", r)
		}
		s.ran(1)
	})
}
