package drivertest

import (
	"context"
	"errors"
	"slices"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/memstore"
)

// spoilResolution changes each resolution.
func spoilResolution(f func(b *broken, key driver.Key, r *driver.Resolution)) func(b *broken) {
	return func(b *broken) {
		b.resolve = func(ctx context.Context, key driver.Key, r driver.Resolution) (driver.Record, error) {
			if r.Check(0) == nil && ctx.Err() == nil {
				f(b, key, &r)
			}
			return b.Store.Resolve(ctx, key, r)
		}
	}
}

// spoilQuery changes each query.
func spoilQuery(f func(q *driver.Query)) func(b *broken) {
	return func(b *broken) {
		b.list = func(ctx context.Context, q driver.Query) (driver.Page, error) {
			f(&q)
			return b.Store.List(ctx, q)
		}
	}
}

// extraMutants break the optional interfaces.
func extraMutants() []mutant {
	return []mutant{
		{"ResolveIgnoresTheToken", spoilResolution(func(_ *broken, _ driver.Key, r *driver.Resolution) { r.Token = 0 })},
		{"ResolveIgnoresForce", spoilResolution(func(_ *broken, _ driver.Key, r *driver.Resolution) { r.Force = true })},
		{"ResolveForgetsTheNote", spoilResolution(func(_ *broken, _ driver.Key, r *driver.Resolution) { r.Note = "" })},
		{"ResolveForgetsTheAttempts", spoilResolution(func(_ *broken, _ driver.Key, r *driver.Resolution) {
			if r.Action == driver.ResolveRelease {
				r.Retention = 1
			}
		})},
		{"ResolveForgetsTheResult", spoilResolution(func(_ *broken, _ driver.Key, r *driver.Resolution) {
			r.Result = driver.Result{}
		})},
		{"EraseLeavesNoTombstone", spoilResolution(func(_ *broken, _ driver.Key, r *driver.Resolution) {
			if r.Action == driver.ResolveErase {
				r.Tombstone = 1
			}
		})},
		{"EraseDoesNothing", func(b *broken) {
			b.resolve = func(ctx context.Context, key driver.Key, r driver.Resolution) (driver.Record, error) {
				if rec := b.now(key); r.Action == driver.ResolveErase && rec.State == driver.StateCompleted && r.Check(0) == nil {
					return rec, nil
				}
				return b.Store.Resolve(ctx, key, r)
			}
		}},
		{"ResolveCompletesWhatIsInFlight", spoilResolution(func(b *broken, key driver.Key, r *driver.Resolution) {
			if rec := b.now(key); r.Action == driver.ResolveComplete && rec.State == driver.StateInFlight {
				_ = b.Store.Abandon(context.Background(), driver.Ref{Key: key, Token: rec.Token})
			}
		})},
		{"ResolveReturnsTheRecordBefore", func(b *broken) {
			b.resolve = func(ctx context.Context, key driver.Key, r driver.Resolution) (driver.Record, error) {
				before := b.now(key)
				_, err := b.Store.Resolve(ctx, key, r)
				return before, err
			}
		}},
		{"ResolveReleaseIsTheOwners", func(b *broken) {
			b.resolve = func(ctx context.Context, key driver.Key, r driver.Resolution) (driver.Record, error) {
				rec := b.now(key)
				if r.Action == driver.ResolveRelease && r.Force && rec.State == driver.StateInFlight && r.Check(0) == nil {
					err := b.Store.Release(ctx, driver.Ref{Key: key, Token: rec.Token}, driver.Release{Retention: r.Retention})
					return b.now(key), err
				}
				return b.Store.Resolve(ctx, key, r)
			}
		}},
		{"ResolveReleasesWithAnAnswer", func(b *broken) {
			resolved := map[driver.Key]bool{}
			b.resolve = func(ctx context.Context, key driver.Key, r driver.Resolution) (driver.Record, error) {
				rec, err := b.Store.Resolve(ctx, key, r)
				b.mu.Lock()
				resolved[key] = err == nil && r.Action == driver.ResolveRelease
				b.mu.Unlock()
				return rec, err
			}
			b.record = func(r *driver.Record) {
				b.mu.Lock()
				defer b.mu.Unlock()
				r.Answered = r.Answered || resolved[r.Key] && r.State == driver.StateAbsent
			}
		}},
		{"ResolveTakesWhatIsOutOfBounds", func(b *broken) {
			b.resolve = func(ctx context.Context, key driver.Key, r driver.Resolution) (driver.Record, error) {
				if r.Retention <= 0 {
					r.Retention = retention
				}
				return b.Store.Resolve(ctx, key, r)
			}
		}},
		{"ResolveIsAlwaysASuccess", func(b *broken) {
			b.resolve = func(ctx context.Context, key driver.Key, r driver.Resolution) (driver.Record, error) {
				rec, err := b.Store.Resolve(ctx, key, r)
				if errors.Is(err, driver.ErrState) {
					return b.now(key), nil
				}
				return rec, err
			}
		}},

		{"ListHasWhatIsAbsent", spoilQuery(func(q *driver.Query) {
			if len(q.States) == 0 {
				q.States = []driver.State{
					driver.StateAbsent, driver.StateInFlight, driver.StateCompleted, driver.StateUnknown, driver.StateForgotten,
				}
			}
		})},
		{"ListIgnoresTheStates", spoilQuery(func(q *driver.Query) { q.States = nil })},
		{"ListIgnoresTheScope", spoilQuery(func(q *driver.Query) { q.Scope = "" })},
		{"ListTakesTheFirstStateOnly", spoilQuery(func(q *driver.Query) { q.States = q.States[:min(1, len(q.States))] })},
		{"ListHasOneMoreThanTheLimit", spoilQuery(func(q *driver.Query) {
			if q.Limit > 0 && q.Limit < 1000 {
				q.Limit++
			}
		})},
		{"ListTakesAnyLimit", spoilQuery(func(q *driver.Query) { q.Limit = min(max(q.Limit, 1), 1000) })},
		{"ListMissesRecordsBetweenPages", func(b *broken) {
			b.list = func(ctx context.Context, q driver.Query) (driver.Page, error) {
				page, err := b.Store.List(ctx, q)
				if page.Next != "" && len(page.Records) > 1 {
					page.Records = page.Records[:len(page.Records)-1]
				}
				return page, err
			}
		}},
		{"ListRepeatsRecordsBetweenPages", func(b *broken) {
			b.list = func(ctx context.Context, q driver.Query) (driver.Page, error) {
				page, err := b.Store.List(ctx, q)
				if n := len(page.Records); page.Next != "" && n > 1 {
					page.Next = page.Records[n-2].Key.String()
				}
				return page, err
			}
		}},
		{"ListEndsAfterAPage", func(b *broken) {
			b.list = func(ctx context.Context, q driver.Query) (driver.Page, error) {
				page, err := b.Store.List(ctx, q)
				page.Next = ""
				return page, err
			}
		}},
		{"ListHasResults", func(b *broken) {
			b.list = func(ctx context.Context, q driver.Query) (driver.Page, error) {
				page, err := b.Store.List(ctx, q)
				for i := range page.Records {
					page.Records[i].Result = b.now(page.Records[i].Key).Result
				}
				return page, err
			}
		}},

		{"SweepDropsUnknowns", func(b *broken) {
			b.sweep = func(ctx context.Context, limit int) (int, error) {
				page, _ := b.Store.List(ctx, driver.Query{Limit: 1000, States: []driver.State{driver.StateUnknown}})
				for _, rec := range page.Records {
					_, _ = b.Store.Resolve(ctx, rec.Key, resolution(driver.ResolveRelease))
				}
				return b.Store.Sweep(ctx, limit)
			}
		}},
		{"SweepForgetsResultsEarly", func(b *broken) {
			b.sweep = func(ctx context.Context, limit int) (int, error) {
				page, _ := b.Store.List(ctx, driver.Query{Limit: 1000, States: []driver.State{driver.StateCompleted}})
				for _, rec := range page.Records {
					if rec.Left < retention/2 {
						_, _ = b.Store.Resolve(ctx, rec.Key, resolution(driver.ResolveErase))
					}
				}
				return b.Store.Sweep(ctx, limit)
			}
		}},
		{"SweepDropsTombstones", func(b *broken) {
			var gone []driver.Key
			b.key = func(k driver.Key) driver.Key {
				b.mu.Lock()
				defer b.mu.Unlock()
				if slices.Contains(gone, k) {
					k[31] ^= 0xff
				}
				return k
			}
			b.sweep = func(ctx context.Context, limit int) (int, error) {
				page, _ := b.Store.List(ctx, driver.Query{Limit: 1000, States: []driver.State{driver.StateForgotten}})
				b.mu.Lock()
				for _, rec := range page.Records {
					gone = append(gone, rec.Key)
				}
				b.mu.Unlock()
				return b.Store.Sweep(ctx, limit)
			}
		}},
		{"SweepDoesNothing", func(b *broken) {
			b.sweep = func(ctx context.Context, _ int) (int, error) { return 0, ctx.Err() }
		}},
		{"SweepIgnoresTheLimit", func(b *broken) {
			b.sweep = func(ctx context.Context, _ int) (int, error) { return b.Store.Sweep(ctx, 1000) }
		}},

		{"StatsCountsUnknownsAsInFlight", func(b *broken) {
			b.stats = func(ctx context.Context) (driver.Stats, error) {
				st, err := b.Store.Stats(ctx)
				st.InFlight, st.Unknown = st.InFlight+st.Unknown, 0
				return st, err
			}
		}},
		{"StatsCountsTombstonesAsCompleted", func(b *broken) {
			b.stats = func(ctx context.Context) (driver.Stats, error) {
				st, err := b.Store.Stats(ctx)
				st.Completed, st.Forgotten = st.Completed+st.Forgotten, 0
				return st, err
			}
		}},
		{"StatsHasTheYoungestUnknown", func(b *broken) {
			b.stats = func(ctx context.Context) (driver.Stats, error) {
				st, err := b.Store.Stats(ctx)
				page, _ := b.Store.List(ctx, driver.Query{Limit: 1000, States: []driver.State{driver.StateUnknown}})
				for _, rec := range page.Records {
					st.OldestUnknown = min(st.OldestUnknown, rec.Age)
				}
				return st, err
			}
		}},

		{"WaitNeverEnds", func(b *broken) {
			b.wait = func(ctx context.Context, _ driver.Ref) error {
				<-ctx.Done()
				return ctx.Err()
			}
		}},
		{"WaitMissesTheEndOfTheLease", func(b *broken) {
			b.wait = func(ctx context.Context, ref driver.Ref) error {
				err := b.Store.Wait(ctx, ref)
				if rec := b.now(ref.Key); rec.State == driver.StateUnknown && rec.Age >= lease {
					<-ctx.Done()
					return ctx.Err()
				}
				return err
			}
		}},
		{"WaitMissesARelease", func(b *broken) {
			b.wait = func(ctx context.Context, ref driver.Ref) error {
				err := b.Store.Wait(ctx, ref)
				if b.now(ref.Key).State == driver.StateAbsent {
					<-ctx.Done()
					return ctx.Err()
				}
				return err
			}
		}},
		{"WaitWaitsForTheNextClaim", func(b *broken) {
			b.wait = func(ctx context.Context, ref driver.Ref) error {
				if rec := b.now(ref.Key); rec.State == driver.StateInFlight {
					ref.Token = rec.Token
				}
				return b.Store.Wait(ctx, ref)
			}
		}},
		{"WaitOfWhatHasEndedIsAnError", func(b *broken) {
			b.wait = func(ctx context.Context, ref driver.Ref) error {
				if rec := b.now(ref.Key); rec.Token != ref.Token && ctx.Err() == nil {
					return driver.ErrLost
				}
				return b.Store.Wait(ctx, ref)
			}
		}},
		{"WaiterThatGivesUpReleases", func(b *broken) {
			b.wait = func(ctx context.Context, ref driver.Ref) error {
				err := b.Store.Wait(ctx, ref)
				if errors.Is(err, context.Canceled) {
					_ = b.Store.Release(context.Background(), ref, driver.Release{Retention: retention})
				}
				return err
			}
		}},

		{"ReopenedIsEmpty", func(b *broken) {
			b.reopen = func(context.Context) { b.Store = memstore.New(nil) }
		}},
		{"ReopenedClaimsLive", func(b *broken) {
			b.reopen = func(context.Context) {}
		}},
		{"ReopenedClaimsAreReleased", func(b *broken) {
			b.reopen = func(ctx context.Context) {
				page, _ := b.Store.List(ctx, driver.Query{Limit: 1000, States: []driver.State{driver.StateInFlight}})
				for _, rec := range page.Records {
					_ = b.Store.Release(ctx, driver.Ref{Key: rec.Key, Token: rec.Token}, driver.Release{Retention: retention})
				}
			}
		}},
		{"ReopenedUnknownsAreReleased", func(b *broken) {
			b.reopen = func(ctx context.Context) {
				page, _ := b.Store.List(ctx, driver.Query{Limit: 1000, States: []driver.State{driver.StateUnknown}})
				b.dies(ctx)
				for _, rec := range page.Records {
					_, _ = b.Store.Resolve(ctx, rec.Key, resolution(driver.ResolveRelease))
				}
			}
		}},
		{"ReopenedResultsAreForgotten", func(b *broken) {
			b.reopen = func(ctx context.Context) {
				page, _ := b.Store.List(ctx, driver.Query{Limit: 1000, States: []driver.State{driver.StateCompleted}})
				b.dies(ctx)
				for _, rec := range page.Records {
					_, _ = b.Store.Resolve(ctx, rec.Key, resolution(driver.ResolveErase))
				}
			}
		}},
		{"PingNeverAnswers", func(b *broken) {
			b.ping = func(context.Context) error { return driver.ErrFull }
		}},
		{"DescribeSaysNothing", func(b *broken) {
			b.describe = func() driver.Info { return driver.Info{Durable: true, MaxResult: 4096} }
		}},
		{"DescribeSaysNotDurable", func(b *broken) {
			b.describe = func() driver.Info { return b.Store.Describe() }
		}},
		{"ClosedReadsAsAbsent", func(b *broken) {
			b.lookup = func(ctx context.Context, key driver.Key) (driver.Record, error) {
				rec, err := b.Store.Lookup(ctx, key)
				if errors.Is(err, driver.ErrClosed) {
					return driver.Record{Key: key}, nil
				}
				return rec, err
			}
		}},
		{"ClosedGrants", func(b *broken) {
			b.claim = func(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
				reply, err := b.Store.Claim(ctx, req)
				if errors.Is(err, driver.ErrClosed) {
					return driver.ClaimReply{Granted: true}, nil
				}
				return reply, err
			}
		}},
	}
}
