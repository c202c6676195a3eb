package shared

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load is clients that ask a crew for keys, each until its answer is final. Some
// keys are asked for twice, mostly while the first caller still waits.
type load struct {
	crew    *crew
	book    *book
	op      op
	clients int
	seed    uint64
	// keys is how many there are at least; more says, once there are as many,
	// whether there must be more.
	keys int
	more func() bool
	// task fills in a task besides its key; nil leaves it.
	task func(random *rand.Rand, t *task)
	// limit bounds the whole.
	limit time.Duration

	drawn  atomic.Int64
	serial atomic.Int64
}

// run lets the clients ask until all that they wanted to know is known.
func (l *load) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), l.limit)
	defer cancel()
	var running sync.WaitGroup
	var left atomic.Int64
	for i := range l.clients {
		running.Go(func() {
			if !l.client(ctx, i) {
				left.Add(1)
			}
		})
	}
	running.Wait()
	if n := left.Load(); n > 0 {
		t.Errorf("seed %d: %d clients had no final answer in %v; of %d keys %d are wanted: %v", l.seed, n, l.limit, l.drawn.Load(), l.keys, l.book.by)
	}
}

// reached reports that there are as many keys as there must be. No more are
// asked for then, and those that were are asked for until their answer is final.
func (l *load) reached() bool { return l.drawn.Load() >= int64(l.keys) && !l.more() }

// client asks, and reports whether each of its questions was answered in time.
func (l *load) client(ctx context.Context, number int) bool {
	random := rand.New(rand.NewPCG(l.seed, uint64(number)+1))
	for !l.reached() {
		t := task{Op: l.op}
		key, earlier := "", false
		if random.IntN(5) == 0 {
			key, earlier = l.book.earlier(random.IntN(100))
		}
		if !earlier {
			key = fmt.Sprintf("k%d", l.drawn.Add(1))
			l.book.name(key)
		}
		t.Key = key
		if l.task != nil {
			l.task(random, &t)
		}
		for !l.book.note(key, l.crew.ask(int(l.serial.Add(1)), t)) {
			if ctx.Err() != nil {
				return false
			}
			pause(time.Duration(1+random.IntN(20)) * time.Millisecond)
		}
		if ctx.Err() != nil {
			return false
		}
	}
	return true
}

// killer kills something each second.
type killer struct {
	kills   atomic.Int64
	stop    chan struct{}
	stopped chan struct{}
	err     error
	took    time.Duration // of all kills, until what was killed worked again
}

// killEach calls kill at random moments, one in each interval and at once where the
// one before took longer: what kill does includes the start anew. What is killed
// works for a third of the interval at least, and for as long as its last start took.
// It ends when over reports true.
func killEach(seed uint64, interval time.Duration, over func() bool, kill func() error) *killer {
	k := &killer{stop: make(chan struct{}), stopped: make(chan struct{})}
	random := rand.New(rand.NewPCG(seed, 0))
	go func() {
		defer close(k.stopped)
		next, last := time.Now(), time.Duration(0)
		for {
			next = next.Add(interval)
			if earliest := time.Now().Add(max(interval/3, last)); next.Before(earliest) {
				next = earliest
			}
			at := next.Add(time.Duration(random.Int64N(int64(interval/5)) - int64(interval/10)))
			timer := time.NewTimer(time.Until(at))
			select {
			case <-timer.C:
			case <-k.stop:
				timer.Stop()
				return
			}
			if over() {
				return
			}
			began := time.Now()
			if k.err = kill(); k.err != nil {
				return
			}
			last = time.Since(began)
			k.took += last
			k.kills.Add(1)
		}
	}()
	return k
}

// end stops the kills, when the last one is over, and returns how many there were.
func (k *killer) end(t *testing.T) int {
	t.Helper()
	close(k.stop)
	<-k.stopped
	if k.err != nil {
		t.Fatalf("after %d kills: %v", k.kills.Load(), k.err)
	}
	return int(k.kills.Load())
}
