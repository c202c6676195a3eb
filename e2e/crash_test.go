package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idem-go/idem/e2e/internal/rig"
)

const (
	crashKills   = 110
	crashClients = 32
	// crashTime bounds the run; fewer kills than are wanted fail it.
	crashTime = 90 * time.Second
	// crashKillsShort is for go test -short.
	crashKillsShort = 15
)

// The proxy is killed by SIGKILL at random moments, under clients that retry.
// Afterwards no key has taken effect twice, each key has one answer, nothing
// that was answered is forgotten, and every unknown outcome is listed.
func TestCrashKilledAtRandomMoments(t *testing.T) {
	seed := crashSeed(t)
	ledger := &effects{count: map[string]int{}}
	up := crashService(t, ledger)
	p := rig.Start(t, "http://"+up, "--wait=2s")
	run := &crashRun{t: t, proxy: p.Listen, seed: seed, answers: map[string]*answers{}, over: make(chan struct{})}
	var clients sync.WaitGroup
	for i := range crashClients {
		clients.Go(func() { run.client(i) })
	}
	wanted := crashKills
	if testing.Short() {
		wanted = crashKillsShort
	}
	kills := run.kill(p, wanted)
	close(run.over)
	clients.Wait()

	again := run.askAll(p)
	unknown := map[string]bool{}
	for _, rec := range p.Records("unknown") {
		unknown[rec.Key] = true
	}
	if left := p.Records("in-flight"); len(left) != 0 {
		t.Errorf("%d records are still in flight: %+v", len(left), left[0])
	}
	tally := run.check(again, unknown, ledger)
	t.Logf("seed %d: %d kills, %d requests, %s", seed, kills, run.requests.Load(), tally)
	if kills < wanted {
		t.Errorf("%d kills in %v, want %d", kills, crashTime, wanted)
	}
	if tally.unknown == 0 || tally.replays == 0 || tally.completed == 0 {
		t.Errorf("the run proves little: %s", tally)
	}
}

func crashSeed(t *testing.T) uint64 {
	if text := os.Getenv("IDEM_TEST_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("IDEM_TEST_SEED: %v", err)
		}
		return seed
	}
	seed := rand.Uint64()
	t.Logf("IDEM_TEST_SEED=%d", seed)
	return seed
}

// effects is the ledger, kept outside of the proxy.
type effects struct {
	mu    sync.Mutex
	count map[string]int
	total int
}

func (e *effects) add(key string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.count[key]++
	e.total++
	return e.total
}

func (e *effects) of(key string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.count[key]
}

// crashService does its work once for each request that it gets, in a random
// time, and answers in one of several ways, never twice the same.
func crashService(t *testing.T, ledger *effects) (addr string) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pause(rand.N(12 * time.Millisecond))
		n := ledger.add(r.Header.Get("Idempotency-Key"))
		pause(rand.N(12 * time.Millisecond))
		body := fmt.Sprintf("effect %d %x\n", n, rand.Uint64())
		w.Header().Set("X-Effect", strconv.Itoa(n))
		switch n % 4 {
		case 0: // in parts, of no declared length
			for i := range 3 {
				fmt.Fprintf(w, "part %d of %s", i, body)
				w.(http.Flusher).Flush()
				pause(rand.N(5 * time.Millisecond))
			}
		case 1: // large
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, body+fill(30_000))
		case 2:
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, body)
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: rig.Patience}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(l) // it ends by Close
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
	return l.Addr().String()
}

// pause is how long a step of the work takes. The work goes on when the proxy
// has died.
func pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}

// crashRun is what the clients know.
type crashRun struct {
	t        *testing.T
	proxy    string
	seed     uint64
	over     chan struct{}
	requests atomic.Int64

	mu      sync.Mutex
	names   []string
	answers map[string]*answers
}

// answers are those that clients got to one key.
type answers struct {
	first    string // the first whole 2xx, with its head; "" for none
	unknown  bool   // somebody was told outcome-unknown
	replays  int
	problems []string // what went against the promise
}

// kill ends the process again and again, at random moments from its start on,
// until there were as many as wanted, and leaves it running.
func (c *crashRun) kill(p *rig.Proxy, wanted int) int {
	random := rand.New(rand.NewPCG(c.seed, 0))
	end := time.Now().Add(crashTime)
	kills := 0
	for kills < wanted && time.Now().Before(end) {
		// Most kills hit a proxy that works, some one that is just starting.
		if random.IntN(6) > 0 {
			p.AwaitReady()
		}
		pause(time.Duration(random.Int64N(int64(250 * time.Millisecond))))
		p.Kill()
		kills++
		p.Relaunch()
	}
	p.AwaitReady()
	return kills
}

// client sends requests with new keys and with old ones, each until it has an
// answer that is final.
func (c *crashRun) client(number int) {
	random := rand.New(rand.NewPCG(c.seed, uint64(number)+1))
	for serial := 0; ; serial++ {
		key := fmt.Sprintf("c%d-%d", number, serial)
		c.mu.Lock()
		if n := len(c.names); n > 0 && random.IntN(3) == 0 {
			// One that another client may be asking for just now.
			key = c.names[n-1-random.IntN(min(n, 200))]
		} else {
			c.names = append(c.names, key)
			c.answers[key] = &answers{}
		}
		c.mu.Unlock()
		for !c.ask(key) {
			select {
			case <-c.over:
				return
			case <-time.After(time.Duration(1+random.IntN(20)) * time.Millisecond):
			}
		}
		select {
		case <-c.over:
			return
		default:
		}
	}
}

// ask sends one request and notes what came; it reports whether that is final.
func (c *crashRun) ask(key string) bool {
	r := rig.Send(c.t, c.proxy, rig.Request{Key: key, Path: "/work", Body: "work for " + key})
	c.requests.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.answers[key]
	switch {
	case r.Err != nil:
		return false
	case r.Status/100 == 2:
		a.note(r)
		return true
	case r.Status == 409 && r.Problem() == "outcome-unknown":
		if a.first != "" {
			a.problems = append(a.problems, "answered 2xx, then outcome-unknown")
		}
		a.unknown = true
		return true
	case r.Status == 409 && r.Problem() == "in-flight":
		return false
	}
	a.problems = append(a.problems, "an answer that nothing explains: "+r.String())
	return true
}

// note keeps a whole 2xx.
func (a *answers) note(r rig.Reply) {
	text := fmt.Sprintf("%d %s %s\n%s", r.Status, r.Header.Get("X-Effect"), r.Header.Get("Content-Type"), r.Body)
	switch {
	case a.unknown:
		a.problems = append(a.problems, "outcome-unknown, then answered 2xx")
	case a.first == "":
		a.first = text
	case a.first != text:
		a.problems = append(a.problems, fmt.Sprintf("two answers: %.80q and %.80q", a.first, text))
	}
	if r.Replayed() {
		a.replays++
	}
}

// askAll asks for every key once more, of a proxy that nobody kills any more.
func (c *crashRun) askAll(p *rig.Proxy) map[string]rig.Reply {
	var mu sync.Mutex
	again := map[string]rig.Reply{}
	var wg sync.WaitGroup
	next := make(chan string)
	for range 8 {
		wg.Go(func() {
			for key := range next {
				r := p.Send(rig.Request{Key: key, Path: "/work", Body: "work for " + key})
				mu.Lock()
				again[key] = r
				mu.Unlock()
			}
		})
	}
	for _, key := range c.names {
		next <- key
	}
	close(next)
	wg.Wait()
	return again
}

type crashTally struct{ keys, completed, unknown, replays, late int }

// String says it in a line.
func (c crashTally) String() string {
	return fmt.Sprintf("%d keys: %d answered, %d unknown, %d only done at the end, %d replays", c.keys, c.completed, c.unknown, c.late, c.replays)
}

// check holds what the clients saw against the promise.
func (c *crashRun) check(again map[string]rig.Reply, listed map[string]bool, ledger *effects) crashTally {
	t, tally := c.t, crashTally{keys: len(c.names)}
	for _, key := range c.names {
		a, r := c.answers[key], again[key]
		if n := ledger.of(key); n > 1 {
			t.Errorf("%s took effect %d times", key, n)
		}
		for _, problem := range a.problems {
			t.Errorf("%s: %s", key, problem)
		}
		tally.replays += a.replays
		switch {
		case r.Err == nil && r.Status/100 == 2:
			before := len(a.problems)
			if a.first == "" {
				tally.late++
			} else {
				tally.completed++
				if !r.Replayed() {
					t.Errorf("%s was answered, and ran again at the end: %v", key, r)
				}
			}
			a.note(r)
			for _, problem := range a.problems[before:] {
				t.Errorf("%s, at the end: %s", key, problem)
			}
			if ledger.of(key) != 1 {
				t.Errorf("%s is answered and took effect %d times", key, ledger.of(key))
			}
			if listed[key] {
				t.Errorf("%s is answered and listed as unknown", key)
			}
		case r.Status == 409 && r.Problem() == "outcome-unknown":
			tally.unknown++
			if a.first != "" {
				t.Errorf("%s was answered and is unknown at the end", key)
			}
			if !listed[key] {
				t.Errorf("%s is unknown and not listed", key)
			}
		default:
			t.Errorf("%s, at the end: %v", key, r)
		}
	}
	return tally
}
