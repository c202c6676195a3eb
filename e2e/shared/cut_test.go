package shared

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/testserver/cut"
)

// cutBed is a store behind a proxy, and beside it.
type cutBed struct {
	t       *testing.T
	through *player
	direct  *player
	number  int
}

func newCutBed(t *testing.T, l *lab, addr string, lease time.Duration) *cutBed {
	t.Helper()
	c := config{
		Store: l.kind.name, DSN: l.through(addr), Scope: scopeOf(t), Ledger: filepath.Join(t.TempDir(), "ledger"),
		Lease: lease, Wait: 2 * time.Second, StoreTimeout: 2 * time.Second, SaveWait: 20 * time.Second,
	}
	b := &cutBed{t: t, through: playerOf(t, c)}
	c.DSN = l.dsn
	b.direct = playerOf(t, c)
	return b
}

func (b *cutBed) key(name string) string {
	b.number++
	return fmt.Sprint(name, "-", b.number)
}

// until asks through the proxy until the answer is final, as a client does.
func (b *cutBed) until(o op, key string) answer {
	b.t.Helper()
	var a answer
	eventually(b.t, "a final answer", func(ctx context.Context) bool {
		a = b.through.play(ctx, task{Op: o, Key: key})
		return !slices.Contains([]what{unsaved, inFlight, noStore, undone}, a.What)
	})
	return a
}

// warm asks for something else first, so that connections and statements are made.
func (b *cutBed) warm(o op) {
	b.t.Helper()
	b.done(o, b.key("warm"), "")
}

// done asks until the answer is final, and then beside the proxy: each time the
// value must be that of the one effect, and value too unless it is empty.
func (b *cutBed) done(o op, key, value string) {
	b.t.Helper()
	a := b.until(o, key)
	again := b.direct.play(b.t.Context(), task{Op: o, Key: key})
	took := b.took(o)[key]
	if a.What != ran && a.What != replayed || again.What != replayed || again.Value != a.Value ||
		value != "" && a.Value != value || !slices.Equal(took, []string{a.Value}) {
		b.t.Errorf("%s: %+v, and beside the proxy %+v; the effects are %v, and what was told before %q", key, a, again, took, value)
	}
}

func (b *cutBed) took(o op) effects {
	b.t.Helper()
	if o == opDo {
		return ledgerOf(b.t, b.direct.config.Ledger)
	}
	return rowsOf(b.t, b.direct.opened, b.direct.config.Scope)
}

func (b *cutBed) request(key string) idem.Request {
	return idem.Request{Key: idem.Key{Scope: b.through.config.Scope, ID: key}}
}

// record is the record beside the proxy.
func (b *cutBed) record(key string) driver.Record {
	b.t.Helper()
	r, err := b.direct.store.Lookup(b.t.Context(), driver.KeyOf(b.direct.config.Scope, key))
	must(b.t, err)
	return r
}

// cuts are the two ways in which a connection is cut.
func cuts(p *cut.Proxy) map[string]func() {
	return map[string]func(){"request": p.CutRequests, "answer": p.CutAnswers}
}

// The connection is cut before the request arrives, and after it and before the
// answer, at each step of a leased claim: the answer that the caller has in the
// end is right, and there is one effect.
func TestTrap56CutAtEachStep(t *testing.T) {
	each(t, single, func(t *testing.T, k *kind) {
		l := labOf(t, k)
		if l == nil {
			return
		}
		proxy, err := cut.Listen(l.server.Addr())
		must(t, err)
		t.Cleanup(func() { proxy.Close() })
		const lease = 3 * time.Second
		b := newCutBed(t, l, proxy.Addr(), lease)
		for name, arm := range cuts(proxy) {
			step := func(step string, test func(key string)) {
				t.Helper()
				b.warm(opDo)
				before := proxy.Cuts()
				test(b.key(step))
				if proxy.Cuts() == before {
					t.Errorf("%s: nothing was cut", step)
					proxy.Forget()
				}
			}
			step("claim-"+name, func(key string) {
				arm()
				b.done(opDo, key, "")
			})
			step("renew-"+name, func(key string) { b.renew(key, arm, proxy, lease) })
			step("complete-"+name, func(key string) {
				v, err := idem.Do(t.Context(), b.through.guard, b.request(key), func(context.Context) (string, error) {
					defer arm()
					return b.through.effect(task{Key: key})
				})
				if err != nil {
					t.Errorf("%s: %v", key, err)
				}
				b.done(opDo, key, v)
			})
			step("release-"+name, func(key string) {
				no := errors.New("not now")
				_, err := idem.Do(t.Context(), b.through.guard, b.request(key), func(context.Context) (string, error) {
					defer arm()
					return "", idem.ReleaseError(no)
				})
				if !errors.Is(err, no) {
					t.Errorf("%s: %v", key, err)
				}
				b.done(opDo, key, "")
				if r := b.record(key); r.Attempt != 2 {
					t.Errorf("%s: attempt %d, want 2", key, r.Attempt)
				}
			})
			step("abandon-"+name, func(key string) { b.abandon(key, arm) })
			step("replay-"+name, func(key string) {
				a := b.until(opDo, key)
				arm()
				b.done(opDo, key, a.Value)
			})
		}
	})
}

// renew cuts a renewal: it is made again in time, so that nobody takes the work, which
// is longer than the lease, for lost.
func (b *cutBed) renew(key string, arm func(), proxy *cut.Proxy, lease time.Duration) {
	t := b.t
	t.Helper()
	v, err := idem.Do(t.Context(), b.through.guard, b.request(key), func(ctx context.Context) (string, error) {
		before := proxy.Cuts()
		began := time.Now()
		arm()
		if err := proxy.WaitCuts(t.Context(), before+1); err != nil {
			t.Errorf("%s: no renewal was cut: %v", key, err)
		}
		eventually(t, "it is renewed after that", func(context.Context) bool {
			return b.record(key).Left > lease*2/3 && time.Since(began) > lease/2
		})
		if ctx.Err() != nil {
			t.Errorf("%s: the work was cancelled: %v", key, context.Cause(ctx))
		}
		return b.through.effect(task{Key: key})
	})
	if err != nil {
		t.Errorf("%s: %v", key, err)
	}
	b.done(opDo, key, v)
	if r := b.record(key); r.Attempt != 1 {
		t.Errorf("%s: attempt %d, want 1", key, r.Attempt)
	}
}

// abandon cuts the word that the outcome is unknown: in the end all are told so, and it is
// listed.
func (b *cutBed) abandon(key string, arm func()) {
	t := b.t
	t.Helper()
	_, err := idem.Do(t.Context(), b.through.guard, b.request(key), func(context.Context) (string, error) {
		defer arm()
		_, err := b.through.effect(task{Key: key})
		return "", errors.Join(err, errors.New("who knows"))
	})
	if !errors.Is(err, idem.ErrUnknown) {
		t.Errorf("%s: %v", key, err)
	}
	if a := b.until(opDo, key); a.What != unknown {
		t.Errorf("%s: %+v", key, a)
	}
	if a := b.direct.play(t.Context(), task{Op: opDo, Key: key}); a.What != unknown {
		t.Errorf("%s beside the proxy: %+v", key, a)
	}
	if !listed(t, b.direct.opened, b.direct.config.Scope, driver.StateUnknown)[key] {
		t.Errorf("%s is not listed as unknown", key)
	}
	if n := len(b.took(opDo)[key]); n != 1 {
		t.Errorf("%s took effect %d times", key, n)
	}
}

// So it is in a transaction: begin and claim, the work, the commit.
func TestTrap44CutAtEachStepTx(t *testing.T) {
	each(t, func(k *kind) bool { return k.tx && single(k) }, func(t *testing.T, k *kind) {
		l := labOf(t, k)
		if l == nil {
			return
		}
		proxy, err := cut.Listen(l.server.Addr())
		must(t, err)
		t.Cleanup(func() { proxy.Close() })
		b := newCutBed(t, l, proxy.Addr(), time.Minute)
		for name, arm := range cuts(proxy) {
			// at does an operation, with a cut at the beginning, in the midst or at the
			// end of its first try.
			at := func(step string, begin, middle, end bool) {
				t.Helper()
				b.warm(opTx)
				key := b.key(step + "-" + name)
				before := proxy.Cuts()
				armIf := func(yes bool) {
					if yes && proxy.Cuts() == before {
						arm()
					}
				}
				armIf(begin)
				o, err := b.through.tx.do(t.Context(), b.request(key), func(ctx context.Context, q querier) (string, error) {
					v := newValue()
					armIf(middle)
					if err := b.through.rows(ctx, q, task{Key: key}, v); err != nil {
						return "", fmt.Errorf("%w: %w", errWork, err)
					}
					armIf(end)
					return v, nil
				})
				if w := kindOf(err); err != nil && w != noStore && w != undone {
					t.Errorf("%s: %v", key, err)
				}
				if proxy.Cuts() == before {
					t.Errorf("%s: nothing was cut", key)
					proxy.Forget()
				}
				b.done(opTx, key, o.Value)
			}
			at("claim", true, false, false)
			at("work", false, true, false)
			at("commit", false, false, true)
		}
	})
}

// Whatever goes over the connection is cut in its turn: the first request of an
// operation, the second, and so on until there are no more; and the same with each
// answer.
func TestTrap10EveryRequestIsCutInItsTurn(t *testing.T) {
	each(t, single, func(t *testing.T, k *kind) {
		l := labOf(t, k)
		if l == nil {
			return
		}
		proxy := newNth(t, l.server.Addr())
		b := newCutBed(t, l, proxy.addr(), time.Minute)
		ops := []op{opDo}
		if k.tx {
			ops = append(ops, opTx, opCompleteTx)
		}
		for _, o := range ops {
			for _, answer := range []bool{false, true} {
				n := 1
				for ; n <= 40; n++ {
					b.warm(o)
					key := b.key(fmt.Sprintf("%s-%v-%d", o, answer, n))
					proxy.arm(n, answer)
					a := b.through.play(t.Context(), task{Op: o, Key: key})
					was := proxy.disarm()
					switch {
					case a.What == ran:
						b.done(o, key, a.Value)
					case a.What == noStore, a.What == undone:
						b.done(o, key, "")
					default:
						t.Errorf("%s: %+v", key, a)
					}
					if !was || t.Failed() {
						break
					}
				}
				if n < 2 || n > 40 {
					t.Errorf("%s: %d requests were cut", o, n-1)
				}
				t.Logf("%s: %d cut, of answers %v", o, n-1, answer)
			}
		}
	})
}
