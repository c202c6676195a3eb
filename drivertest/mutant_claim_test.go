package drivertest

import (
	"context"
	"runtime"

	"github.com/idem-go/idem/driver"
)

// spoilClaim changes the request of each claim.
func spoilClaim(f func(b *broken, req *driver.ClaimRequest)) func(b *broken) {
	return func(b *broken) {
		b.claim = func(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
			// Requests that are out of bounds stay what they are.
			if req.Check() == nil && ctx.Err() == nil {
				f(b, &req)
			}
			return b.Store.Claim(ctx, req)
		}
	}
}

// spoilReply changes the answer to each claim.
func spoilReply(f func(ctx context.Context, b *broken, req driver.ClaimRequest, before driver.Record, reply *driver.ClaimReply, err *error)) func(b *broken) {
	return func(b *broken) {
		b.claim = func(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
			before := b.now(req.Key)
			reply, err := b.Store.Claim(ctx, req)
			if ctx.Err() == nil {
				f(ctx, b, req, before, &reply, &err)
			}
			return reply, err
		}
	}
}

func claimMutants() []mutant {
	return []mutant{
		{"ClaimIsNotRepeatable", spoilClaim(func(_ *broken, req *driver.ClaimRequest) {
			req.Nonce = driver.NewNonce()
		})},
		{"RepeatIsANewAttempt", spoilClaim(func(b *broken, req *driver.ClaimRequest) {
			if b.now(req.Key).State == driver.StateUnknown && b.last(req.Key).Nonce == req.Nonce {
				req.Nonce, req.Retry = driver.NewNonce(), true
			}
		})},
		{"RepeatDoesNotRenew", func(b *broken) {
			b.claim = func(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
				rec := b.now(req.Key)
				if rec.State == driver.StateInFlight && b.last(req.Key).Nonce == req.Nonce {
					return driver.ClaimReply{Granted: true, Record: rec}, nil
				}
				return b.Store.Claim(ctx, req)
			}
		}},
		{"RepeatOnlyWhileInFlight", spoilClaim(func(b *broken, req *driver.ClaimRequest) {
			if b.now(req.Key).State == driver.StateUnknown {
				req.Nonce = driver.NewNonce()
			}
		})},
		{"NonceIsGrantedAgainAfterRelease", spoilReply(func(ctx context.Context, b *broken, req driver.ClaimRequest, _ driver.Record, reply *driver.ClaimReply, err *error) {
			if *err != nil {
				req.Nonce = driver.NewNonce()
				*reply, *err = b.Store.Claim(ctx, req)
			}
		})},
		{"NonceIsGrantedAgainAfterAbandon", spoilReply(func(ctx context.Context, b *broken, req driver.ClaimRequest, before driver.Record, reply *driver.ClaimReply, err *error) {
			if before.State == driver.StateUnknown && !reply.Granted && b.last(req.Key).Nonce == req.Nonce {
				req.Nonce, req.Retry = driver.NewNonce(), true
				*reply, *err = b.Store.Claim(ctx, req)
			}
		})},
		{"LeaseIsATickShort", spoilClaim(func(_ *broken, req *driver.ClaimRequest) { req.Lease-- })},
		{"LeaseIsATickLong", spoilClaim(func(_ *broken, req *driver.ClaimRequest) { req.Lease++ })},
		{"TakeOverBeforeTheLeaseEnds", spoilClaim(func(b *broken, req *driver.ClaimRequest) {
			rec := b.now(req.Key)
			if rec.State == driver.StateInFlight && req.Retry && rec.Left < lease/2 {
				_ = b.Store.Abandon(context.Background(), driver.Ref{Key: req.Key, Token: rec.Token})
			}
		})},
		{"TakeOverOfWhatIsInFlight", spoilClaim(func(b *broken, req *driver.ClaimRequest) {
			if rec := b.now(req.Key); rec.State == driver.StateInFlight && b.last(req.Key).Nonce != req.Nonce {
				_ = b.Store.Release(context.Background(), driver.Ref{Key: req.Key, Token: rec.Token}, driver.Release{Retention: retention})
			}
		})},
		{"RetryIgnoresTheFingerprint", spoilClaim(func(b *broken, req *driver.ClaimRequest) {
			if rec := b.now(req.Key); rec.State == driver.StateUnknown {
				req.Fingerprint = rec.Fingerprint
			}
		})},
		{"RetryComparesTheSumOnly", spoilClaim(func(b *broken, req *driver.ClaimRequest) {
			if rec := b.now(req.Key); rec.State == driver.StateUnknown && rec.Fingerprint.Sum == req.Fingerprint.Sum {
				req.Fingerprint.Rule = rec.Fingerprint.Rule
			}
		})},
		{"UnknownIsGrantedWithoutRetry", spoilClaim(func(_ *broken, req *driver.ClaimRequest) { req.Retry = true })},
		{"UnknownIsNeverGranted", spoilClaim(func(_ *broken, req *driver.ClaimRequest) { req.Retry = false })},
		{"UnknownIsKeptTooLong", spoilClaim(func(_ *broken, req *driver.ClaimRequest) {
			if req.Tombstone < 1<<62 {
				req.Tombstone *= 2
			}
		})},
		{"UnknownIsNotKept", spoilClaim(func(_ *broken, req *driver.ClaimRequest) { req.Tombstone = 1 })},
		{"UnknownCountsFromTheClaim", spoilClaim(func(_ *broken, req *driver.ClaimRequest) {
			req.Tombstone = max(1, req.Tombstone-req.Lease)
		})},
		{"WaitedIsIgnored", spoilClaim(func(_ *broken, req *driver.ClaimRequest) { req.Waited = 0 })},
		{"WaitedForTheVeryClaimOnly", spoilClaim(func(b *broken, req *driver.ClaimRequest) {
			if b.now(req.Key).Token != req.Waited {
				req.Waited = 0
			}
		})},
		{"WaitedForALaterClaimToo", spoilClaim(func(_ *broken, req *driver.ClaimRequest) {
			req.Waited = min(req.Waited, 1)
		})},
		{"AnsweredIsRememberedAfterALaterRelease", func(b *broken) {
			answered := map[driver.Key]uint64{}
			b.claim = func(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
				rec := b.now(req.Key)
				b.mu.Lock()
				if rec.Answered {
					answered[req.Key] = rec.Token
				}
				waited := req.Waited != 0 && req.Waited <= answered[req.Key]
				b.mu.Unlock()
				if rec.State == driver.StateAbsent && rec.Attempt > 0 && waited {
					rec.Answered = true
					return driver.ClaimReply{Record: rec}, nil
				}
				return b.Store.Claim(ctx, req)
			}
		}},
		{"WhoWaitedIsNeverGranted", spoilReply(func(ctx context.Context, b *broken, req driver.ClaimRequest, before driver.Record, reply *driver.ClaimReply, _ *error) {
			if before.State == driver.StateAbsent && before.Attempt > 0 && req.Waited != 0 {
				reply.Granted = false
			}
		})},
		{"ReleasedKeyTakesTheSameFingerprintOnly", func(b *broken) {
			b.claim = func(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
				rec := b.now(req.Key)
				if rec.State == driver.StateAbsent && rec.Attempt > 0 && b.last(req.Key).Fingerprint != req.Fingerprint {
					return driver.ClaimReply{Record: rec}, nil
				}
				return b.Store.Claim(ctx, req)
			}
		}},
		{"ForgottenIsGranted", func(b *broken) {
			other := map[driver.Key]driver.Key{}
			b.key = func(k driver.Key) driver.Key {
				b.mu.Lock()
				defer b.mu.Unlock()
				if o, ok := other[k]; ok {
					return o
				}
				return k
			}
			b.claim = func(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
				reply, err := b.Store.Claim(ctx, req)
				if reply.Record.State != driver.StateForgotten {
					return reply, err
				}
				key := req.Key
				req.Key[31] ^= 0xff
				b.mu.Lock()
				other[key] = req.Key
				b.mu.Unlock()
				return b.Store.Claim(ctx, req)
			}
		}},
		{"ClaimIsNotAtomic", func(b *broken) {
			b.claim = func(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
				before := b.now(req.Key)
				runtime.Gosched()
				reply, err := b.Store.Claim(ctx, req)
				if before.State == driver.StateAbsent && before.Attempt == 0 && reply.Record.State == driver.StateInFlight {
					reply.Granted = true
				}
				return reply, err
			}
		}},
		{"TakeOverIsNotAtomic", func(b *broken) {
			b.claim = func(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
				before := b.now(req.Key)
				runtime.Gosched()
				reply, err := b.Store.Claim(ctx, req)
				if before.State == driver.StateUnknown && req.Retry && reply.Record.State == driver.StateInFlight {
					reply.Granted = true
				}
				return reply, err
			}
		}},
		{"RefusedClaimHasNoResult", spoilReply(func(_ context.Context, _ *broken, _ driver.ClaimRequest, _ driver.Record, reply *driver.ClaimReply, _ *error) {
			reply.Record.Result = driver.Result{}
		})},
		{"RefusedClaimHasTheRequestsFingerprint", spoilReply(func(_ context.Context, _ *broken, req driver.ClaimRequest, _ driver.Record, reply *driver.ClaimReply, _ *error) {
			if reply.Record.State != driver.StateAbsent {
				reply.Record.Fingerprint = req.Fingerprint
			}
		})},
		{"AnotherFingerprintIsAnError", spoilReply(func(_ context.Context, _ *broken, req driver.ClaimRequest, before driver.Record, _ *driver.ClaimReply, err *error) {
			if before.State == driver.StateInFlight && before.Fingerprint != req.Fingerprint {
				*err = driver.ErrInvalid
			}
		})},
		{"RefusedClaimRenewsTheLease", spoilReply(func(ctx context.Context, b *broken, req driver.ClaimRequest, before driver.Record, _ *driver.ClaimReply, _ *error) {
			if before.State == driver.StateInFlight {
				_ = b.Store.Renew(ctx, driver.Ref{Key: req.Key, Token: before.Token}, req.Lease)
			}
		})},
	}
}
