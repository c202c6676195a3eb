package drivertest

import (
	"bytes"
	"context"
	"math"
	"strings"
	"time"

	"github.com/idem-go/idem/driver"
)

// spoilRecord changes each record that is returned.
func spoilRecord(f func(r *driver.Record)) func(b *broken) {
	return func(b *broken) { b.record = f }
}

// renumber shows other tokens than the right store's, and takes them back.
func renumber(b *broken, out func(rec driver.Record) uint64) {
	in := func(ref driver.Ref) driver.Ref {
		if rec := b.now(ref.Key); rec.Token != 0 && out(rec) == ref.Token {
			ref.Token = rec.Token
		} else {
			ref.Token = math.MaxUint64
		}
		return ref
	}
	b.renew = func(ctx context.Context, ref driver.Ref, d time.Duration) error {
		return b.Store.Renew(ctx, in(ref), d)
	}
	b.complete = func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
		return b.Store.Complete(ctx, in(ref), c)
	}
	b.release = func(ctx context.Context, ref driver.Ref, r driver.Release) error {
		return b.Store.Release(ctx, in(ref), r)
	}
	b.abandon = func(ctx context.Context, ref driver.Ref) error { return b.Store.Abandon(ctx, in(ref)) }
	b.wait = func(ctx context.Context, ref driver.Ref) error { return b.Store.Wait(ctx, in(ref)) }
	b.claim = func(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
		if rec := b.now(req.Key); req.Waited != 0 && req.Waited <= out(rec) {
			req.Waited = rec.Token
		}
		return b.Store.Claim(ctx, req)
	}
	b.resolve = func(ctx context.Context, key driver.Key, r driver.Resolution) (driver.Record, error) {
		if r.Token != 0 {
			r.Token = in(driver.Ref{Key: key, Token: r.Token}).Token
		}
		return b.Store.Resolve(ctx, key, r)
	}
	b.record = func(r *driver.Record) {
		if r.Token != 0 {
			r.Token = out(*r)
		}
	}
}

func recordMutants() []mutant {
	return []mutant{
		{"TokenRestartsAfterAbsence", func(b *broken) {
			renumber(b, func(rec driver.Record) uint64 { return uint64(rec.Attempt) })
		}},
		{"TokenIsReusedAfterRelease", func(b *broken) {
			// Of the claims since the last absence all have the first one's token.
			first := map[driver.Key]uint64{}
			renumber(b, func(rec driver.Record) uint64 {
				b.mu.Lock()
				defer b.mu.Unlock()
				if rec.Attempt == 1 {
					first[rec.Key] = rec.Token
				}
				return first[rec.Key]
			})
		}},
		{"AttemptCountsContention", func(b *broken) {
			refused := map[driver.Key]int{}
			b.claim = func(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
				reply, err := b.Store.Claim(ctx, req)
				if err == nil && !reply.Granted && reply.Record.State == driver.StateInFlight {
					b.mu.Lock()
					refused[req.Key]++
					b.mu.Unlock()
				}
				return reply, err
			}
			b.record = func(r *driver.Record) {
				b.mu.Lock()
				defer b.mu.Unlock()
				r.Attempt += refused[r.Key]
			}
		}},
		{"AttemptCountsWaiters", func(b *broken) {
			refused := map[driver.Key]int{}
			b.claim = func(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
				reply, err := b.Store.Claim(ctx, req)
				if err == nil && !reply.Granted && reply.Record.Answered {
					b.mu.Lock()
					refused[req.Key]++
					b.mu.Unlock()
				}
				return reply, err
			}
			b.record = func(r *driver.Record) {
				b.mu.Lock()
				defer b.mu.Unlock()
				r.Attempt += refused[r.Key]
			}
		}},
		{"AttemptIsAlwaysOne", spoilRecord(func(r *driver.Record) { r.Attempt = min(r.Attempt, 1) })},
		{"AttemptOfATombstoneIsLostWithTheToken", spoilRecord(func(r *driver.Record) {
			if r.State == driver.StateForgotten {
				r.Attempt, r.Token = 0, 0
			}
		})},
		{"DroppedIsLost", spoilRecord(func(r *driver.Record) { r.Dropped = false })},
		{"EmptyReadsAsDropped", spoilRecord(func(r *driver.Record) {
			r.Dropped = r.State == driver.StateCompleted && r.Result.Size() == 0
		})},
		{"TombstoneStaysDropped", func(b *broken) {
			dropped := map[driver.Key]bool{}
			b.record = func(r *driver.Record) {
				b.mu.Lock()
				defer b.mu.Unlock()
				dropped[r.Key] = dropped[r.Key] || r.Dropped
				r.Dropped = dropped[r.Key]
			}
		}},
		{"TombstoneKeepsTheResult", func(b *broken) {
			results := map[driver.Key]driver.Result{}
			b.record = func(r *driver.Record) {
				b.mu.Lock()
				defer b.mu.Unlock()
				switch r.State {
				case driver.StateCompleted:
					results[r.Key] = r.Result
				case driver.StateForgotten:
					r.Result = results[r.Key]
				}
			}
		}},
		{"ForgottenReadsAsCompleted", spoilRecord(func(r *driver.Record) {
			if r.State == driver.StateForgotten {
				r.State = driver.StateCompleted
			}
		})},
		{"UnknownReadsAsInFlight", spoilRecord(func(r *driver.Record) {
			if r.State == driver.StateUnknown {
				r.State = driver.StateInFlight
			}
		})},
		{"UnknownReadsAsAbsent", spoilRecord(func(r *driver.Record) {
			if r.State == driver.StateUnknown {
				r.State = driver.StateAbsent
			}
		})},
		{"LeftIsZero", spoilRecord(func(r *driver.Record) { r.Left = 0 })},
		{"LeftCountsFromTheEnd", spoilRecord(func(r *driver.Record) { r.Left++ })},
		{"AgeOfACompletedCountsFromTheClaim", func(b *broken) {
			b.record = func(r *driver.Record) {
				if r.State == driver.StateCompleted {
					r.Age += lease / 2
				}
			}
		}},
		{"NamesAreTrimmed", spoilRecord(func(r *driver.Record) {
			r.Scope, r.ID = strings.TrimSpace(r.Scope), strings.TrimSpace(r.ID)
		})},
		{"NamesAreFolded", spoilRecord(func(r *driver.Record) {
			r.Scope, r.ID = strings.ToLower(r.Scope), strings.ToLower(r.ID)
		})},
		{"NamesAreText", spoilRecord(func(r *driver.Record) { r.ID = strings.ToValidUTF8(r.ID, "?") })},
		{"KeysAreFolded", func(b *broken) {
			b.key = func(k driver.Key) driver.Key { return driver.Key(bytes.ToLower(k[:])) }
		}},
		{"KeysEndAtNUL", func(b *broken) {
			b.key = func(k driver.Key) driver.Key {
				var short driver.Key
				if i := bytes.IndexByte(k[:], 0); i >= 0 {
					copy(short[:], k[:i])
					return short
				}
				return k
			}
		}},
		{"KeysAreComparedInPart", func(b *broken) {
			b.key = func(k driver.Key) driver.Key {
				clear(k[16:])
				return k
			}
		}},
		{"KeysAreOfTheIDAlone", func(b *broken) {
			scopes := map[driver.Key]driver.Key{}
			b.key = func(k driver.Key) driver.Key {
				b.mu.Lock()
				defer b.mu.Unlock()
				if o, ok := scopes[k]; ok {
					return o
				}
				for _, scope := range []string{"s", "S", "a", "ab", "", "abc"} {
					if k == driver.KeyOf(scope, "abc") {
						scopes[k] = driver.KeyOf("", "abc")
						return scopes[k]
					}
				}
				return k
			}
		}},
		{"ResultsAreText", spoilRecord(func(r *driver.Record) {
			r.Result.Body = bytes.ToValidUTF8(r.Result.Body, []byte("?"))
		})},
		{"ResultsEndAtNUL", spoilRecord(func(r *driver.Record) {
			if i := bytes.IndexByte(r.Result.Meta, 0); i >= 0 {
				r.Result.Meta = r.Result.Meta[:i]
			}
		})},
		{"MetaCanGrowIntoTheBody", spoilRecord(func(r *driver.Record) {
			n := len(r.Result.Meta)
			joined := append(bytes.Clone(r.Result.Meta), r.Result.Body...)
			r.Result = driver.Result{Meta: joined[:n], Body: joined[n:]}
		})},
		{"ResultsAreTheCallersBuffers", func(b *broken) {
			results := map[driver.Key]driver.Result{}
			b.complete = func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
				late, err := b.Store.Complete(ctx, ref, c)
				if err == nil {
					b.mu.Lock()
					results[ref.Key] = c.Result
					b.mu.Unlock()
				}
				return late, err
			}
			b.record = func(r *driver.Record) {
				b.mu.Lock()
				defer b.mu.Unlock()
				if res, ok := results[r.Key]; ok && r.State == driver.StateCompleted {
					r.Result = res
				}
			}
		}},
		{"ResultsAreReused", func(b *broken) {
			var buf []byte
			b.record = func(r *driver.Record) {
				b.mu.Lock()
				defer b.mu.Unlock()
				if n := len(r.Result.Body); n > 0 {
					buf = append(buf[:0], r.Result.Body...)
					r.Result.Body = buf[:n:n]
				}
			}
		}},
	}
}
