package idemhttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/idemhttp"
	"github.com/idem-go/idem/internal/memtx"
	"github.com/idem-go/idem/memstore"
)

// txSite serves a handler in transactions.
type txSite struct {
	t     *testing.T
	store *memtx.Store
	url   string
}

// serveTx serves what f answers; tx is nil for requests without a key.
func serveTx(t *testing.T, o idemhttp.Options, f func(w http.ResponseWriter, r *http.Request, tx *memtx.Tx)) *txSite {
	t.Helper()
	s := &txSite{t: t, store: memtx.New(&memstore.Options{MaxResult: 1 << 20})}
	guard := idem.NewTx(s.store, &idem.Options{Logger: slog.New(slog.DiscardHandler)})
	o.Principal, o.Logger = idemhttp.NoPrincipal(), slog.New(slog.DiscardHandler)
	server := httptest.NewUnstartedServer(idemhttp.NewTx(guard, &o)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tx, _ := idem.TxFromContext[*memtx.Tx](r.Context())
		f(w, r, tx)
	})))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.Start()
	t.Cleanup(func() {
		server.Close()
		if err := errors.Join(guard.Close(context.Background()), s.store.Close()); err != nil {
			t.Error(err)
		}
	})
	s.url = server.URL
	return s
}

type txReply struct {
	*http.Response
	body string
	err  error
}

func (s *txSite) post(key, body string) txReply {
	s.t.Helper()
	req, err := http.NewRequest(http.MethodPost, s.url+"/orders", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return txReply{err: err}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return txReply{res, string(b), err}
}

func (s *txSite) rows(name string, want int) {
	s.t.Helper()
	if got := s.store.Rows(name); got != want {
		s.t.Errorf("%d rows of %q, want %d", got, name, want)
	}
}

func (r txReply) is(status int, body string) bool {
	return r.err == nil && r.StatusCode == status && r.body == body
}

func TestTxRowsRecordAndResponseCommitTogether(t *testing.T) {
	var calls atomic.Int64
	s := serveTx(t, idemhttp.Options{}, func(w http.ResponseWriter, r *http.Request, tx *memtx.Tx) {
		if tx == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		body, _ := io.ReadAll(r.Body)
		_ = tx.Insert("order")
		w.Header().Set("Location", "/orders/1")
		w.Header().Set("Set-Cookie", "a=b")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, "order %d of %s", calls.Add(1), body)
		w.(http.Flusher).Flush() // which must send nothing before the commit
	})
	first, again := s.post("k", "book"), s.post("k", "book")
	if !first.is(201, "order 1 of book") || first.Header.Get("Set-Cookie") == "" || first.Header.Get("Idempotent-Replayed") != "" {
		t.Errorf("%+v", first)
	}
	if !again.is(201, "order 1 of book") || again.Header.Get("Idempotent-Replayed") != "true" || again.Header.Get("Location") != "/orders/1" ||
		again.Header.Get("Set-Cookie") != "" || again.Header.Get("Idempotency-Key-Expires") == "" {
		t.Errorf("%+v", again)
	}
	if other := s.post("k", "another"); other.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(other.body, "key-reused") {
		t.Errorf("%+v", other)
	}
	if plain := s.post("", "book"); !plain.is(204, "") {
		t.Errorf("without a key: %+v", plain)
	}
	s.rows("order", 1)
}

// Nothing reaches the client before the commit, however the handler writes.
func TestTxAnswerWaitsForTheCommit(t *testing.T) {
	written, commit := make(chan struct{}), make(chan struct{})
	s := serveTx(t, idemhttp.Options{}, func(w http.ResponseWriter, r *http.Request, tx *memtx.Tx) {
		_ = tx.Insert("order")
		w.WriteHeader(http.StatusEarlyHints)
		for range 10 {
			_, _ = w.Write(make([]byte, 10_000))
			w.(http.Flusher).Flush()
		}
		close(written)
		<-commit
	})
	answered := make(chan txReply, 1)
	go func() { answered <- s.post("k", "") }()
	<-written
	s.rows("order", 0)
	select {
	case r := <-answered:
		t.Errorf("answered before the commit: %+v", r)
	default:
	}
	close(commit)
	if r := <-answered; r.err != nil || r.StatusCode != 200 || len(r.body) != 100_000 {
		t.Errorf("%v", r.err)
	}
	s.rows("order", 1)
}

func TestTxStatusDecides(t *testing.T) {
	for status, commits := range map[int]bool{
		200: true, 201: true, 303: true, 400: true, 404: true, 422: true,
		401: false, 409: false, 429: false, 503: false, 500: false, 502: false, 504: false, 501: false,
		507: true, 418: false,
	} {
		o := idemhttp.Options{Status: idemhttp.StatusPolicy{Complete: []int{507}, Release: []int{418}}}
		var calls atomic.Int64
		s := serveTx(t, o, func(w http.ResponseWriter, r *http.Request, tx *memtx.Tx) {
			calls.Add(1)
			_ = tx.Insert("order")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "said")
		})
		first, again := s.post("k", ""), s.post("k", "")
		if !first.is(status, "said") || !again.is(status, "said") {
			t.Errorf("%d: %+v, then %+v", status, first, again)
		}
		if commits != (calls.Load() == 1) || commits != (again.Header.Get("Idempotent-Replayed") == "true") {
			t.Errorf("%d: %d calls, the second was a replay: %q", status, calls.Load(), again.Header.Get("Idempotent-Replayed"))
		}
		want := 0
		if commits {
			want = 1
		}
		s.rows("order", want)
	}
}

func TestTxOutcomeIsSaid(t *testing.T) {
	for outcome, want := range map[idemhttp.Outcome]int{idemhttp.OutcomeComplete: 1, idemhttp.OutcomeRelease: 0, idemhttp.OutcomeUnknown: 0} {
		s := serveTx(t, idemhttp.Options{}, func(w http.ResponseWriter, r *http.Request, tx *memtx.Tx) {
			_ = tx.Insert("order")
			idemhttp.SetOutcome(w, outcome)
			w.WriteHeader(http.StatusInternalServerError)
		})
		if r := s.post("k", ""); !r.is(500, "") {
			t.Errorf("%+v", r)
		}
		s.rows("order", want)
	}
}

func TestTrap14TxPanicRollsBack(t *testing.T) {
	var calls atomic.Int64
	s := serveTx(t, idemhttp.Options{}, func(w http.ResponseWriter, r *http.Request, tx *memtx.Tx) {
		_ = tx.Insert("order")
		switch calls.Add(1) {
		case 1:
			panic("broken")
		case 2:
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "not so long")
		}
	})
	for range 2 {
		if r := s.post("k", ""); r.err == nil {
			t.Errorf("an answer to a panic, or of a wrong length: %+v", r)
		}
		s.rows("order", 0)
	}
	if r := s.post("k", ""); !r.is(200, "") {
		t.Errorf("the key is stuck: %+v", r)
	}
	s.rows("order", 1)
}

func TestTrap61TxResponseTooLarge(t *testing.T) {
	size := 0
	s := serveTx(t, idemhttp.Options{MaxStoredResponse: 50_000}, func(w http.ResponseWriter, r *http.Request, tx *memtx.Tx) {
		_ = tx.Insert("order")
		_, _ = w.Write(make([]byte, size))
	})
	for _, size = range []int{50_001, 49_999, 10 << 20} {
		r := s.post("k", "")
		if r.StatusCode != 500 || !strings.Contains(r.body, "response-too-large") || r.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%d bytes: %+v", size, r)
		}
		s.rows("order", 0)
	}
	size = 49_000
	if r := s.post("k", ""); r.StatusCode != 200 || len(r.body) != size {
		t.Errorf("%d bytes: %d", size, r.StatusCode)
	}
	s.rows("order", 1)
}

// A conflict of the database's calls the handler again, with the request as it
// was, and what it had answered is gone.
func TestTrap44TxConflictCallsTheHandlerAgain(t *testing.T) {
	var calls atomic.Int64
	s := serveTx(t, idemhttp.Options{}, func(w http.ResponseWriter, r *http.Request, tx *memtx.Tx) {
		body, _ := io.ReadAll(r.Body)
		n := calls.Add(1)
		if r.Header.Get("X-Seen") != "" || string(body) != "book" {
			t.Errorf("call %d: header %q, body %q", n, r.Header.Get("X-Seen"), body)
		}
		r.Header.Set("X-Seen", "1")
		_ = tx.Insert("order")
		w.Header().Set("X-Call", fmt.Sprint(n))
		w.WriteHeader(int(200 + n))
		fmt.Fprintf(w, "call %d", n)
	})
	s.store.FailCommits = []bool{false}
	if r := s.post("k", "book"); !r.is(202, "call 2") || r.Header["X-Call"][0] != "2" {
		t.Errorf("%+v", r)
	}
	s.store.FailCommits = []bool{true}
	if r := s.post("k2", "book"); !r.is(203, "call 3") {
		t.Errorf("a commit that lost its answer: %+v", r)
	}
	s.rows("order", 2)
}

func TestTrap57TxWaitersShareARollback(t *testing.T) {
	arrived, answer := make(chan struct{}), make(chan struct{})
	var calls atomic.Int64
	s := serveTx(t, idemhttp.Options{}, func(w http.ResponseWriter, r *http.Request, tx *memtx.Tx) {
		if calls.Add(1) == 1 {
			close(arrived)
		}
		<-answer
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "busy")
	})
	replies := make(chan txReply, 11)
	var wg sync.WaitGroup
	wg.Go(func() { replies <- s.post("k", "") })
	<-arrived
	for range 10 {
		wg.Go(func() { replies <- s.post("k", "") })
	}
	close(answer)
	wg.Wait()
	close(replies)
	for r := range replies {
		if !r.is(503, "busy") || r.Header.Get("Idempotent-Replayed") != "" {
			t.Errorf("%+v", r)
		}
	}
	s.rows("order", 0)
}

// A store that fails is never passed by, whatever the options say.
func TestTxDoesNotFailOpen(t *testing.T) {
	called := false
	s := serveTx(t, idemhttp.Options{FailOpen: true}, func(http.ResponseWriter, *http.Request, *memtx.Tx) { called = true })
	_ = s.store.Close()
	if r := s.post("k", ""); r.StatusCode != 503 || !strings.Contains(r.body, "store-unavailable") || called {
		t.Errorf("%+v, called %v", r, called)
	}
}

func TestTxRecordIsReadByTheLeasedMiddleware(t *testing.T) {
	s := serveTx(t, idemhttp.Options{Host: "shop"}, func(w http.ResponseWriter, r *http.Request, tx *memtx.Tx) {
		_, _ = io.WriteString(w, "done")
	})
	if r := s.post("k", ""); !r.is(200, "done") {
		t.Fatalf("%+v", r)
	}
	guard := idem.New(driver.Store(s.store), nil)
	w := httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodPost, "/orders", nil)
	req.Header.Set("Idempotency-Key", "k")
	idemhttp.New(guard, &idemhttp.Options{Principal: idemhttp.NoPrincipal(), Host: "shop"})(http.NotFoundHandler()).ServeHTTP(w, req)
	if w.Code != 200 || w.Body.String() != "done" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
