package e2e

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/e2e/internal/faulty"
	"github.com/idem-go/idem/e2e/internal/rig"
	"github.com/idem-go/idem/idemhttp"
)

// The work was done and its record cannot be saved within save-wait.
func TestAnswerUnsaved(t *testing.T) {
	t.Parallel()
	m := startInside(t, &idem.Options{Policy: idem.Policy{SaveWait: 200 * time.Millisecond, Lease: 500 * time.Millisecond}}, nil, nil)
	m.store.On(faulty.Complete, faulty.Always(faulty.Refused))
	wantProblem(t, "the first", m.post("k", "{}"), 503, "outcome-unknown")
	wantProblem(t, "a retry meanwhile", m.post("k", "{}"), 503, "outcome-unknown")
	m.store.On(faulty.Complete, nil)
	rig.Eventually(t, "saving goes on", func() bool { return m.post("k", "{}").Status == 201 })
	wantReplay(t, "afterwards", rig.Reply{Status: 201, Body: []byte("run 1")}, m.post("k", "{}"))
	m.wantRuns(1)
}

// Trap 8: the store fails exactly at the save, for a moment: nobody notices.
func TestTrap08StoreFailsAtTheSave(t *testing.T) {
	t.Parallel()
	m := startInside(t, nil, nil, nil)
	m.store.On(faulty.Complete, faulty.First(3, faulty.Refused))
	first := m.post("k", "{}")
	wantFirst(t, "the first", first, 201)
	wantReplay(t, "the retry", first, m.post("k", "{}"))
	m.wantRuns(1)
}

// What has begun to be sent cannot become a problem any more: it breaks.
func TestAnswerUnsavedStreamBreaks(t *testing.T) {
	t.Parallel()
	for name, length := range map[string]string{"with a length": "50000", "in chunks": ""} {
		t.Run(name, func(t *testing.T) {
			m := startInside(t, &idem.Options{Policy: idem.Policy{SaveWait: 200 * time.Millisecond}}, nil, func(w http.ResponseWriter, _ *http.Request, _ int64) {
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				io.WriteString(w, fill(50_000))
			})
			m.store.On(faulty.Complete, faulty.Always(faulty.Refused))
			first := m.post("k", "{}")
			if first.Err == nil || first.Status != 200 {
				t.Errorf("want a response that breaks off, got %v", first)
			}
			m.store.On(faulty.Complete, nil)
			rig.Eventually(t, "saving goes on", func() bool { return m.post("k", "{}").Status == 200 })
			wantReplay(t, "the retry", rig.Reply{Status: 200, Body: []byte(fill(50_000))}, m.post("k", "{}"))
			m.wantRuns(1)
		})
	}
}

func TestTrap09StoreIsDownAtTheClaim(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]faulty.Fault{"refuses": faulty.Refused, "hangs": faulty.Hangs} {
		t.Run(name, func(t *testing.T) {
			m := startInside(t, nil, nil, nil)
			m.store.On(faulty.Claim, faulty.Always(fault))
			began := time.Now()
			r := m.post("k", "{}")
			wantProblem(t, "the first", r, 503, "store-unavailable")
			if r.Header.Get("Retry-After") == "" {
				t.Error("there is no Retry-After")
			}
			if d := time.Since(began); d > 10*time.Second {
				t.Errorf("it took %v", d)
			}
			m.wantRuns(0)
			wantFirst(t, "without a key", m.post("", "{}"), 201)
			m.store.On(faulty.Claim, nil)
			wantFirst(t, "the store is back", m.post("k", "{}"), 201)
			m.wantRuns(2)
		})
	}
}

// Fail open: passed on unprotected, and marked.
func TestAnswerFailOpen(t *testing.T) {
	t.Parallel()
	m := startInside(t, nil, &idemhttp.Options{FailOpen: true}, nil)
	m.store.On(faulty.Claim, faulty.Always(faulty.Refused))
	for range 2 {
		r := m.post("k", "{}")
		wantFirst(t, "the store is down", r, 201)
		if r.Header.Get("Idempotency-Unprotected") != "true" {
			t.Errorf("it is not marked: %v", r.Header)
		}
	}
	m.wantRuns(2)
	m.store.On(faulty.Claim, nil)
	r := m.post("k", "{}")
	wantFirst(t, "the store is back", r, 201)
	if r.Header.Get("Idempotency-Unprotected") != "" {
		t.Error("it is marked as unprotected")
	}
	wantReplay(t, "the retry", r, m.post("k", "{}"))
	m.wantRuns(3)
}

// Fail open is for the claim: what has run does not run again because its record
// cannot be saved.
func TestAnswerFailOpenNeverRunsTwice(t *testing.T) {
	t.Parallel()
	m := startInside(t, &idem.Options{Policy: idem.Policy{SaveWait: 100 * time.Millisecond}}, &idemhttp.Options{FailOpen: true}, nil)
	m.store.On(faulty.Complete, faulty.Always(faulty.Refused))
	wantProblem(t, "the first", m.post("k", "{}"), 503, "outcome-unknown")
	m.wantRuns(1)
}

// The claim was granted and its answer lost: its owner is recognised.
func TestTrap10ClaimsAnswerIsLost(t *testing.T) {
	t.Parallel()
	m := startInside(t, nil, nil, nil)
	m.store.On(faulty.Claim, faulty.First(1, faulty.Lost))
	first := m.post("k", "{}")
	wantFirst(t, "the first", first, 201)
	wantReplay(t, "the retry", first, m.post("k", "{}"))
	m.wantRuns(1)
}

// Every answer of a claim was lost: it is given back, and the key is not stuck.
func TestTrap10ClaimIsGivenBack(t *testing.T) {
	t.Parallel()
	m := startInside(t, &idem.Options{Policy: idem.Policy{Wait: -1, Lease: time.Hour}}, nil, nil)
	m.store.On(faulty.Claim, faulty.First(2, faulty.Lost))
	wantProblem(t, "the first", m.post("k", "{}"), 503, "store-unavailable")
	m.wantRuns(0)
	rig.Eventually(t, "the key is free", func() bool { return m.post("k", "{}").Status == 201 })
	m.wantRuns(1)
}

// The answer of complete, release or renew was lost, and is asked for again:
// that is success, not a lost lease.
func TestTrap56AnswersOfTheOwnersCallsAreLost(t *testing.T) {
	t.Parallel()
	for _, call := range []faulty.Call{faulty.Complete, faulty.Release, faulty.Renew, faulty.Abandon} {
		for _, fault := range []faulty.Fault{faulty.Lost, faulty.Refused} {
			t.Run(fmt.Sprint(call, fault), func(t *testing.T) {
				statuses := map[faulty.Call]int{faulty.Release: 503, faulty.Abandon: 502}
				var m *inside
				m = startInside(t, &idem.Options{Policy: idem.Policy{Lease: 300 * time.Millisecond}}, nil, func(w http.ResponseWriter, _ *http.Request, run int64) {
					if call == faulty.Renew {
						rig.Eventually(t, "two renewals", func() bool { return m.store.Calls(faulty.Renew) >= 2 })
					}
					status := statuses[call]
					if status == 0 || run > 1 {
						status = 201
					}
					w.WriteHeader(status)
					fmt.Fprintf(w, "run %d", run)
				})
				m.store.On(call, faulty.First(1, fault))
				first := m.post("k", "{}")
				if first.Err != nil || string(first.Body) != "run 1" {
					t.Fatalf("the first: %v", first)
				}
				switch call {
				case faulty.Release:
					rig.Eventually(t, "it is released", func() bool { return m.post("k", "{}").Status == 201 })
					m.wantRuns(2)
				case faulty.Abandon:
					wantProblem(t, "the retry", m.post("k", "{}"), 409, "outcome-unknown")
					m.wantRuns(1)
				default:
					wantReplay(t, "the retry", first, m.post("k", "{}"))
					m.wantRuns(1)
				}
			})
		}
	}
}

func TestAnswerRecordUnreadable(t *testing.T) {
	t.Parallel()
	m := startInside(t, nil, &idemhttp.Options{FailOpen: true}, nil)
	m.store.On(faulty.Claim, faulty.Always(faulty.Unreadable))
	wantProblem(t, "the first", m.post("k", "{}"), 500, "record-unreadable")
	m.wantRuns(0)
}

// A record whose fingerprint was made by a rule that nobody knows cannot be
// read; it is never taken for absent.
func TestTrap60UnknownRule(t *testing.T) {
	t.Parallel()
	m := startInside(t, nil, nil, nil)
	_, err := m.store.Claim(t.Context(), driver.ClaimRequest{
		Key: driver.KeyOf("example.test/anonymous", "k"), Scope: "example.test/anonymous", ID: "k", Nonce: driver.NewNonce(),
		Fingerprint: driver.Fingerprint{Rule: 200, Sum: [32]byte{1}}, Lease: time.Hour, Tombstone: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	wantProblem(t, "the first", m.post("k", "{}"), 500, "record-unreadable")
	m.wantRuns(0)
}
