package drivertest

import (
	"bytes"
	"strings"
	"time"

	"github.com/idem-go/idem/driver"
)

// largestTested is the largest limit on results that the suite tries out.
const largestTested = 1 << 20

func argumentRules() []rule {
	return []rule{
		{"OfClaim", func(e *env) {
			spoil := map[string]func(r *driver.ClaimRequest){
				"lease 0":     func(r *driver.ClaimRequest) { r.Lease = 0 },
				"lease -1":    func(r *driver.ClaimRequest) { r.Lease = -1 },
				"tombstone 0": func(r *driver.ClaimRequest) { r.Tombstone = 0 },
				"no nonce":    func(r *driver.ClaimRequest) { r.Nonce = driver.Nonce{} },
				"long scope":  func(r *driver.ClaimRequest) { r.Scope = strings.Repeat("x", driver.MaxName+1) },
				"long id":     func(r *driver.ClaimRequest) { r.ID = strings.Repeat("x", driver.MaxName+1) },
			}
			for what, f := range spoil {
				req := request("k")
				f(&req)
				_, err := e.s.Claim(e.ctx, req)
				e.want(err, driver.ErrInvalid, "Claim with "+what)
				rec := e.state(req.Key, driver.StateAbsent)
				equal(e, rec.Attempt, 0, "the attempt")
			}
			// Over a record, and by the nonce of its claim, too.
			req := request("k")
			e.grant(req)
			e.unchanged(req.Key, "an invalid repeat", func() {
				bad := req
				bad.Lease = 0
				_, err := e.s.Claim(e.ctx, bad)
				e.want(err, driver.ErrInvalid, "Claim with lease 0")
			})
		}},
		{"OfRenew", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.unchanged(req.Key, "an invalid lease", func() {
				for _, d := range []time.Duration{0, -1, -time.Hour} {
					e.want(e.s.Renew(e.ctx, ref, d), driver.ErrInvalid, "Renew")
				}
			})
		}},
		{"OfComplete", func(e *env) {
			spoil := map[string]func(c *driver.Completion){
				"retention 0":  func(c *driver.Completion) { c.Retention = 0 },
				"retention -1": func(c *driver.Completion) { c.Retention = -1 },
				"tombstone 0":  func(c *driver.Completion) { c.Tombstone = 0 },
				"long id":      func(c *driver.Completion) { c.ID = strings.Repeat("x", driver.MaxName+1) },
				"long scope":   func(c *driver.Completion) { c.Scope = strings.Repeat("x", driver.MaxName+1) },
				"dropped bytes": func(c *driver.Completion) {
					c.Dropped = true
				},
			}
			req := request("k")
			ref := e.grant(req)
			e.unchanged(req.Key, "an invalid completion", func() {
				for what, f := range spoil {
					c := completion(req, "", "result")
					f(&c)
					_, err := e.s.Complete(e.ctx, ref, c)
					e.want(err, driver.ErrInvalid, "Complete with "+what)
				}
			})
			e.complete(ref, completion(req, "", "result"))
		}},
		{"OfRelease", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.unchanged(req.Key, "an invalid release", func() {
				for _, d := range []time.Duration{0, -1} {
					e.want(e.s.Release(e.ctx, ref, driver.Release{Retention: d}), driver.ErrInvalid, "Release")
				}
			})
		}},
		{"OfResolve", func(e *env) {
			if e.resolver() == nil {
				return
			}
			req := request("k")
			e.abandon(e.grant(req))
			e.unchanged(req.Key, "an invalid resolution", func() {
				spoil := map[string]func(r *driver.Resolution){
					"action 0":     func(r *driver.Resolution) { r.Action = 0 },
					"action 4":     func(r *driver.Resolution) { r.Action = 4 },
					"retention 0":  func(r *driver.Resolution) { r.Retention = 0 },
					"tombstone -1": func(r *driver.Resolution) { r.Tombstone = -1 },
					"dropped bytes": func(r *driver.Resolution) {
						r.Dropped, r.Result.Body = true, []byte("b")
					},
				}
				for what, f := range spoil {
					r := resolution(driver.ResolveComplete)
					f(&r)
					_, err := e.resolver().Resolve(e.ctx, req.Key, r)
					e.want(err, driver.ErrInvalid, "Resolve with "+what)
				}
			})
		}},
		{"Trap61TheLimitItself", func(e *env) {
			limit := e.limit()
			if limit == 0 {
				return
			}
			for _, meta := range []int{0, 1, limit / 2, limit} {
				req := request(string(rune('a' + meta%26)))
				req.Key[0], req.Key[1] = byte(meta), byte(meta>>8)
				c := completion(req, "", "")
				c.Result = driver.Result{Meta: bytes.Repeat([]byte("m"), meta), Body: bytes.Repeat([]byte("b"), limit-meta)}
				e.complete(e.grant(req), c)
				rec := e.lookup(req.Key)
				equal(e, len(rec.Result.Meta), meta, "the length of the meta")
				equal(e, len(rec.Result.Body), limit-meta, "the length of the body")
			}
		}},
		{"Trap61OneByteMore", func(e *env) {
			limit := e.limit()
			if limit == 0 {
				return
			}
			req := request("k")
			ref := e.grant(req)
			e.unchanged(req.Key, "a result that is too large", func() {
				for _, meta := range []int{0, 1, limit + 1} {
					c := completion(req, "", "")
					c.Result = driver.Result{Meta: make([]byte, meta), Body: make([]byte, limit+1-meta)}
					e.completeErr(ref, c, driver.ErrTooLarge)
				}
			})
			e.renew(ref, lease)
			c := completion(req, "", "")
			c.Dropped = true
			e.complete(ref, c)
			equal(e, e.refuse(request("k")).Dropped, true, "dropped")
		}},
		{"Trap61OneByteMoreInResolve", func(e *env) {
			limit := e.limit()
			if limit == 0 || e.resolver() == nil {
				return
			}
			req := request("k")
			e.abandon(e.grant(req))
			e.unchanged(req.Key, "a result that is too large", func() {
				r := resolution(driver.ResolveComplete)
				r.Result.Body = make([]byte, limit+1)
				_, err := e.resolver().Resolve(e.ctx, req.Key, r)
				e.want(err, driver.ErrTooLarge, "Resolve")
			})
		}},
	}
}

// limit is the largest result that the store keeps; 0 where it has no limit
// that the suite can try out.
func (e *env) limit() int {
	d, ok := driver.As[driver.Describer](e.s)
	if !ok {
		return 0
	}
	limit := d.Describe().MaxResult
	if limit > largestTested {
		e.Logf("not tested: the store's limit, %d bytes, is over %d", limit, largestTested)
		return 0
	}
	return limit
}
