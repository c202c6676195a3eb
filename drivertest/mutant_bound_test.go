package drivertest

import (
	"context"
	"errors"
	"time"

	"github.com/idem-go/idem/driver"
)

// boundMutants break what is refused before anything is changed.
func boundMutants() []mutant {
	return []mutant{
		{"CancelledContextIsIgnored", func(b *broken) {
			b.claim = func(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
				return b.Store.Claim(context.WithoutCancel(ctx), req)
			}
		}},
		{"CancelledClaimWrites", func(b *broken) {
			b.claim = func(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
				reply, err := b.Store.Claim(context.WithoutCancel(ctx), req)
				if ctx.Err() != nil {
					return driver.ClaimReply{}, ctx.Err()
				}
				return reply, err
			}
		}},
		{"CancelledCompleteWrites", func(b *broken) {
			b.complete = func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
				late, err := b.Store.Complete(context.WithoutCancel(ctx), ref, c)
				return late, errors.Join(ctx.Err(), err)
			}
		}},
		{"CancelledRenewWrites", func(b *broken) {
			b.renew = func(ctx context.Context, ref driver.Ref, lease time.Duration) error {
				return errors.Join(ctx.Err(), b.Store.Renew(context.WithoutCancel(ctx), ref, lease))
			}
		}},
		{"CancelledReleaseWrites", func(b *broken) {
			b.release = func(ctx context.Context, ref driver.Ref, r driver.Release) error {
				return errors.Join(ctx.Err(), b.Store.Release(context.WithoutCancel(ctx), ref, r))
			}
		}},
		{"CancelledAbandonWrites", func(b *broken) {
			b.abandon = func(ctx context.Context, ref driver.Ref) error {
				return errors.Join(ctx.Err(), b.Store.Abandon(context.WithoutCancel(ctx), ref))
			}
		}},
		{"CancelledResolveWrites", func(b *broken) {
			b.resolve = func(ctx context.Context, key driver.Key, r driver.Resolution) (driver.Record, error) {
				rec, err := b.Store.Resolve(context.WithoutCancel(ctx), key, r)
				return rec, errors.Join(ctx.Err(), err)
			}
		}},
		{"ZeroLeaseIsAccepted", func(b *broken) {
			b.claim = func(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
				if req.Lease <= 0 {
					req.Lease = lease
				}
				return b.Store.Claim(ctx, req)
			}
		}},
		{"ZeroRenewalIsAccepted", func(b *broken) {
			b.renew = func(ctx context.Context, ref driver.Ref, d time.Duration) error {
				return b.Store.Renew(ctx, ref, max(d, 1))
			}
		}},
		{"ZeroRetentionIsAccepted", func(b *broken) {
			b.complete = func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
				c.Retention = max(c.Retention, 1)
				return b.Store.Complete(ctx, ref, c)
			}
		}},
		{"ZeroTombstoneIsAccepted", func(b *broken) {
			b.complete = func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
				c.Tombstone = max(c.Tombstone, 1)
				return b.Store.Complete(ctx, ref, c)
			}
		}},
		{"NoNonceIsAccepted", func(b *broken) {
			b.claim = func(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
				if req.Nonce == (driver.Nonce{}) {
					req.Nonce = driver.NewNonce()
				}
				return b.Store.Claim(ctx, req)
			}
		}},
		{"InvalidReleaseIsWritten", func(b *broken) {
			b.release = func(ctx context.Context, ref driver.Ref, r driver.Release) error {
				if err := r.Check(); err != nil {
					_ = b.Store.Release(ctx, ref, driver.Release{Retention: retention})
					return err
				}
				return b.Store.Release(ctx, ref, r)
			}
		}},
		{"TheLongestDurationWraps", func(b *broken) {
			b.complete = func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
				if c.Retention > 1<<62 {
					c.Retention = 1
				}
				return b.Store.Complete(ctx, ref, c)
			}
		}},
		{"TheLongestLeaseWraps", spoilClaim(func(_ *broken, req *driver.ClaimRequest) {
			if req.Lease > 1<<62 {
				req.Lease = 1
			}
		})},
		{"TooLargeIsCut", func(b *broken) {
			b.complete = func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
				if limit := b.Describe().MaxResult; c.Result.Size() > limit && len(c.Result.Meta) <= limit {
					c.Result.Body = c.Result.Body[:limit-len(c.Result.Meta)]
				}
				return b.Store.Complete(ctx, ref, c)
			}
		}},
		{"TooLargeIsPartlyWritten", func(b *broken) {
			b.complete = func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
				late, err := b.Store.Complete(ctx, ref, c)
				if errors.Is(err, driver.ErrTooLarge) {
					c.Result = driver.Result{Body: []byte("part")}
					_, _ = b.Store.Complete(ctx, ref, c)
				}
				return late, err
			}
		}},
		{"TooLargeIsDroppedUnasked", func(b *broken) {
			b.complete = func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
				late, err := b.Store.Complete(ctx, ref, c)
				if errors.Is(err, driver.ErrTooLarge) {
					c.Result, c.Dropped = driver.Result{}, true
					return b.Store.Complete(ctx, ref, c)
				}
				return late, err
			}
		}},
		{"TheLimitItselfIsTooLarge", func(b *broken) {
			b.complete = func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
				if c.Result.Size() == b.Describe().MaxResult {
					return false, driver.ErrTooLarge
				}
				return b.Store.Complete(ctx, ref, c)
			}
		}},
		{"TheLimitIsOnTheBodyAlone", func(b *broken) {
			b.complete = func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
				if limit := b.Describe().MaxResult; c.Result.Size() > limit && len(c.Result.Body) <= limit {
					c.Result.Meta = nil
				}
				return b.Store.Complete(ctx, ref, c)
			}
		}},
		{"UnknownsAreNotBounded", func(b *broken) { b.unbounded = true }},
		{"UnknownsBlockForEver", func(b *broken) {
			full := false
			b.claim = func(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
				b.mu.Lock()
				stuck := full
				b.mu.Unlock()
				if stuck && b.now(req.Key).State == driver.StateAbsent {
					return driver.ClaimReply{}, driver.ErrFull
				}
				reply, err := b.Store.Claim(ctx, req)
				if errors.Is(err, driver.ErrFull) {
					b.mu.Lock()
					full = true
					b.mu.Unlock()
				}
				return reply, err
			}
		}},
		{"TheBoundRefusesRepeats", func(b *broken) {
			b.claim = func(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
				if errors.Is(b.Ping(ctx), driver.ErrFull) {
					return driver.ClaimReply{}, driver.ErrFull
				}
				return b.Store.Claim(ctx, req)
			}
		}},
	}
}
