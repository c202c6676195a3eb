package drivertest

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/idem-go/idem/driver"
)

// spoilCompletion changes each completion.
func spoilCompletion(f func(b *broken, key driver.Key, c *driver.Completion)) func(b *broken) {
	return func(b *broken) {
		b.complete = func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
			if c.Check(0) == nil && ctx.Err() == nil {
				f(b, ref.Key, &c)
			}
			return b.Store.Complete(ctx, ref, c)
		}
	}
}

// completeIs replaces Complete where the record is as it was found before.
func completeIs(f func(before driver.Record, late bool, err error) (bool, error)) func(b *broken) {
	return func(b *broken) {
		b.complete = func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
			before := b.now(ref.Key)
			late, err := b.Store.Complete(ctx, ref, c)
			return f(before, late, err)
		}
	}
}

func ownerMutants() []mutant {
	return []mutant{
		// No fencing.
		{"CompleteIsNotFenced", func(b *broken) {
			b.complete = func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
				ref.Token = b.now(ref.Key).Token
				return b.Store.Complete(ctx, ref, c)
			}
		}},
		{"LateCompleteIsNotFenced", func(b *broken) {
			b.complete = func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
				if rec := b.now(ref.Key); rec.State == driver.StateUnknown && ref.Token < rec.Token && ref.Token != 0 {
					ref.Token = rec.Token
				}
				return b.Store.Complete(ctx, ref, c)
			}
		}},
		{"RenewIsNotFenced", func(b *broken) {
			b.renew = func(ctx context.Context, ref driver.Ref, lease time.Duration) error {
				ref.Token = b.now(ref.Key).Token
				return b.Store.Renew(ctx, ref, lease)
			}
		}},
		{"ReleaseIsNotFenced", func(b *broken) {
			b.release = func(ctx context.Context, ref driver.Ref, r driver.Release) error {
				ref.Token = b.now(ref.Key).Token
				return b.Store.Release(ctx, ref, r)
			}
		}},
		{"AbandonIsNotFenced", func(b *broken) {
			b.abandon = func(ctx context.Context, ref driver.Ref) error {
				ref.Token = b.now(ref.Key).Token
				return b.Store.Abandon(ctx, ref)
			}
		}},

		// Renew.
		{"RenewCountsFromTheOldEnd", func(b *broken) {
			b.renew = func(ctx context.Context, ref driver.Ref, lease time.Duration) error {
				if lease > 0 && lease < tombstone {
					lease += b.now(ref.Key).Left
				}
				return b.Store.Renew(ctx, ref, lease)
			}
		}},
		{"RenewNeverShortens", func(b *broken) {
			b.renew = func(ctx context.Context, ref driver.Ref, lease time.Duration) error {
				if lease > 0 {
					lease = max(lease, b.now(ref.Key).Left)
				}
				return b.Store.Renew(ctx, ref, lease)
			}
		}},
		{"RenewDoesNothing", func(b *broken) {
			b.renew = func(ctx context.Context, ref driver.Ref, lease time.Duration) error {
				if rec := b.now(ref.Key); rec.State == driver.StateInFlight && rec.Token == ref.Token && lease > 0 {
					return ctx.Err()
				}
				return b.Store.Renew(ctx, ref, lease)
			}
		}},
		{"RenewRevivesALapsedClaim", func(b *broken) {
			b.renew = func(ctx context.Context, ref driver.Ref, lease time.Duration) error {
				err := b.Store.Renew(ctx, ref, lease)
				if errors.Is(err, driver.ErrLapsed) {
					_, err = b.Store.Claim(ctx, b.last(ref.Key))
				}
				return err
			}
		}},

		// Complete.
		{"LateCompleteIsRefused", completeIs(func(before driver.Record, late bool, err error) (bool, error) {
			if before.State == driver.StateUnknown && err == nil {
				return false, driver.ErrLapsed
			}
			return late, err
		})},
		{"LateCompleteIsNotReported", completeIs(func(_ driver.Record, _ bool, err error) (bool, error) { return false, err })},
		{"RepeatIsNotLate", completeIs(func(before driver.Record, late bool, err error) (bool, error) {
			return late && before.State != driver.StateCompleted, err
		})},
		{"CompleteAfterAnOperatorsReleaseIsRefused", func(b *broken) {
			b.complete = func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
				if b.now(ref.Key).State == driver.StateAbsent && c.Check(0) == nil {
					return false, driver.ErrLost
				}
				return b.Store.Complete(ctx, ref, c)
			}
		}},
		{"CompleteAfterAnOperatorsReleaseLosesTheFingerprint", spoilCompletion(func(_ *broken, _ driver.Key, c *driver.Completion) {
			c.Fingerprint = driver.Fingerprint{}
		})},
		{"CompleteAfterAnOperatorsReleaseLosesTheName", spoilCompletion(func(_ *broken, _ driver.Key, c *driver.Completion) {
			c.Scope, c.ID = "", ""
		})},
		{"CompleteLosesTheFingerprint", func(b *broken) {
			b.record = func(r *driver.Record) {
				if r.State == driver.StateCompleted {
					r.Fingerprint = driver.Fingerprint{}
				}
			}
		}},
		{"AnotherResultIsAccepted", completeIs(func(_ driver.Record, late bool, err error) (bool, error) {
			if errors.Is(err, driver.ErrCompleted) {
				return late, nil
			}
			return late, err
		})},
		{"AnotherResultReplacesTheFirst", func(b *broken) {
			results := map[driver.Key]driver.Result{}
			b.complete = func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
				late, err := b.Store.Complete(ctx, ref, c)
				if errors.Is(err, driver.ErrCompleted) {
					b.mu.Lock()
					results[ref.Key] = c.Result
					b.mu.Unlock()
				}
				return late, err
			}
			b.record = func(r *driver.Record) {
				b.mu.Lock()
				defer b.mu.Unlock()
				if other, ok := results[r.Key]; ok && r.State == driver.StateCompleted {
					r.Result = other
				}
			}
		}},
		{"TheRepeatReadsAsLost", completeIs(func(before driver.Record, late bool, err error) (bool, error) {
			if before.State == driver.StateCompleted {
				return false, driver.ErrLost
			}
			return late, err
		})},
		{"TheRepeatOfWhatIsForgottenReadsAsCompleted", completeIs(func(before driver.Record, late bool, err error) (bool, error) {
			if before.State == driver.StateForgotten && err == nil {
				return false, driver.ErrCompleted
			}
			return late, err
		})},
		{"MetaAndBodyAreComparedAsOne", func(b *broken) {
			b.complete = func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
				before := b.now(ref.Key).Result
				late, err := b.Store.Complete(ctx, ref, c)
				if errors.Is(err, driver.ErrCompleted) && !c.Dropped && before.Size() > 0 &&
					bytes.Equal(append(bytes.Clone(before.Meta), before.Body...), append(bytes.Clone(c.Result.Meta), c.Result.Body...)) {
					return late, nil
				}
				return late, err
			}
		}},
		{"DroppedIsComparedAsEmpty", func(b *broken) {
			b.complete = func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
				before := b.now(ref.Key)
				late, err := b.Store.Complete(ctx, ref, c)
				if errors.Is(err, driver.ErrCompleted) && before.Result.Size() == 0 && c.Result.Size() == 0 {
					return late, nil
				}
				return late, err
			}
		}},
		{"RetentionCountsFromTheClaim", spoilCompletion(func(b *broken, key driver.Key, c *driver.Completion) {
			c.Retention = max(1, c.Retention-b.now(key).Age)
		})},
		{"TheRepeatRenewsTheRetention", func(b *broken) {
			repeated := map[driver.Key]bool{}
			b.complete = func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
				before := b.now(ref.Key)
				late, err := b.Store.Complete(ctx, ref, c)
				b.mu.Lock()
				repeated[ref.Key] = err == nil && before.State == driver.StateCompleted
				b.mu.Unlock()
				return late, err
			}
			b.record = func(r *driver.Record) {
				b.mu.Lock()
				defer b.mu.Unlock()
				if repeated[r.Key] && r.State == driver.StateCompleted {
					r.Left, r.Age = r.Left+r.Age, 0
				}
			}
		}},
		{"TheTombstoneIsMissing", spoilCompletion(func(_ *broken, _ driver.Key, c *driver.Completion) { c.Tombstone = 1 })},
		{"TheTombstoneIsTheClaims", spoilCompletion(func(b *broken, key driver.Key, c *driver.Completion) {
			if made := b.last(key).Tombstone; made > 0 {
				c.Tombstone = made
			}
		})},
		{"TheTombstoneCountsFromTheCompletion", spoilCompletion(func(_ *broken, _ driver.Key, c *driver.Completion) {
			c.Tombstone = max(1, c.Tombstone-c.Retention)
		})},
		{"CompleteIsNotAtomic", func(b *broken) {
			b.complete = func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
				before := b.now(ref.Key)
				runtime.Gosched()
				late, err := b.Store.Complete(ctx, ref, c)
				if before.State == driver.StateInFlight && errors.Is(err, driver.ErrCompleted) {
					err = nil
				}
				return late, err
			}
		}},

		// Release and Abandon.
		{"ReleaseOfALapsedClaimIsTaken", func(b *broken) {
			b.release = func(ctx context.Context, ref driver.Ref, r driver.Release) error {
				err := b.Store.Release(ctx, ref, r)
				if errors.Is(err, driver.ErrLapsed) {
					_, err = b.Store.Resolve(ctx, ref.Key, resolution(driver.ResolveRelease))
				}
				return err
			}
		}},
		{"TheRepeatOfReleaseReadsAsLost", func(b *broken) {
			b.release = func(ctx context.Context, ref driver.Ref, r driver.Release) error {
				before := b.now(ref.Key)
				err := b.Store.Release(ctx, ref, r)
				if err == nil && before.State == driver.StateAbsent {
					return driver.ErrLost
				}
				return err
			}
		}},
		{"TheRepeatOfReleaseOverwrites", func(b *broken) {
			said := map[driver.Key]bool{}
			b.release = func(ctx context.Context, ref driver.Ref, r driver.Release) error {
				err := b.Store.Release(ctx, ref, r)
				if err == nil {
					b.mu.Lock()
					said[ref.Key] = r.Answered
					b.mu.Unlock()
				}
				return err
			}
			b.record = func(r *driver.Record) {
				b.mu.Lock()
				defer b.mu.Unlock()
				if answered, ok := said[r.Key]; ok && r.State == driver.StateAbsent && r.Attempt > 0 {
					r.Answered = answered
				}
			}
		}},
		{"ReleasedOwnerMayComplete", func(b *broken) {
			b.release = func(ctx context.Context, ref driver.Ref, r driver.Release) error {
				rec := b.now(ref.Key)
				if rec.State == driver.StateInFlight && rec.Token == ref.Token && !r.Answered && r.Check() == nil {
					res := resolution(driver.ResolveRelease)
					res.Force, res.Retention = true, r.Retention
					_, err := b.Store.Resolve(ctx, ref.Key, res)
					return err
				}
				return b.Store.Release(ctx, ref, r)
			}
		}},
		{"UnusedIsCounted", func(b *broken) {
			b.release = func(ctx context.Context, ref driver.Ref, r driver.Release) error {
				r.Unused = false
				return b.Store.Release(ctx, ref, r)
			}
		}},
		{"ReleaseForgetsTheAttempts", func(b *broken) {
			before := map[driver.Key]int{}
			b.claim = func(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
				if rec := b.now(req.Key); rec.State == driver.StateAbsent {
					b.mu.Lock()
					before[req.Key] = rec.Attempt
					b.mu.Unlock()
				}
				return b.Store.Claim(ctx, req)
			}
			b.record = func(r *driver.Record) {
				b.mu.Lock()
				defer b.mu.Unlock()
				if r.State != driver.StateAbsent {
					r.Attempt -= before[r.Key]
				}
			}
		}},
		{"ReleaseKeepsTheFingerprint", func(b *broken) {
			b.record = func(r *driver.Record) {
				if r.State == driver.StateAbsent {
					r.Fingerprint = b.last(r.Key).Fingerprint
				}
			}
		}},
		{"ReleaseIsKeptTooLong", func(b *broken) {
			b.release = func(ctx context.Context, ref driver.Ref, r driver.Release) error {
				if r.Retention < 1<<62 {
					r.Retention *= 2
				}
				return b.Store.Release(ctx, ref, r)
			}
		}},
		{"ReleaseForgetsThatItWasAnswered", func(b *broken) {
			b.release = func(ctx context.Context, ref driver.Ref, r driver.Release) error {
				r.Answered = false
				return b.Store.Release(ctx, ref, r)
			}
		}},
		{"AbandonDoesNothing", func(b *broken) {
			b.abandon = func(ctx context.Context, ref driver.Ref) error {
				if rec := b.now(ref.Key); rec.State == driver.StateInFlight && rec.Token == ref.Token {
					return ctx.Err()
				}
				return b.Store.Abandon(ctx, ref)
			}
		}},
		{"AbandonIsAShortLease", func(b *broken) {
			b.abandon = func(ctx context.Context, ref driver.Ref) error {
				if rec := b.now(ref.Key); rec.State == driver.StateInFlight && rec.Token == ref.Token {
					return b.Store.Renew(ctx, ref, 1)
				}
				return b.Store.Abandon(ctx, ref)
			}
		}},
		{"AbandonOfWhatIsCompletedIsTaken", func(b *broken) {
			b.abandon = func(ctx context.Context, ref driver.Ref) error {
				err := b.Store.Abandon(ctx, ref)
				if errors.Is(err, driver.ErrCompleted) {
					return nil
				}
				return err
			}
		}},
		{"AbandonReleases", func(b *broken) {
			b.abandon = func(ctx context.Context, ref driver.Ref) error {
				return b.Store.Release(ctx, ref, driver.Release{Retention: retention})
			}
		}},
	}
}
