package drivertest

import (
	"github.com/idem-go/idem/driver"
)

func bytesRules() []rule {
	return []rule{
		// The slices of a completion are the caller's again once Complete returned.
		{"TheCallersBuffersAreItsOwn", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			c := completion(req, "", "")
			buf := []byte("201the answer")
			c.Result = driver.Result{Meta: buf[:3], Body: buf[3:]}
			e.complete(ref, c)
			if string(buf) != "201the answer" {
				e.Fatalf("Complete changed the caller's bytes: %q", buf)
			}
			for i := range buf {
				buf[i] = 'x'
			}
			result(e, e.lookup(req.Key), "201", "the answer")
			result(e, e.refuse(request("k")), "201", "the answer")
			e.complete(ref, completion(req, "201", "the answer"))
		}},
		{"TheCallersBuffersAreItsOwnInResolve", func(e *env) {
			if e.resolver() == nil {
				return
			}
			req := request("k")
			e.abandon(e.grant(req))
			buf := []byte("201the answer")
			r := resolution(driver.ResolveComplete)
			r.Result = driver.Result{Meta: buf[:3], Body: buf[3:]}
			e.resolve(req.Key, r)
			for i := range buf {
				buf[i] = 'x'
			}
			result(e, e.lookup(req.Key), "201", "the answer")
		}},
		// What was returned stays as it is, whatever becomes of the record.
		{"WhatWasReturnedStays", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.complete(ref, completion(req, "201", "the answer"))
			claimed, looked := e.refuse(request("k")), e.lookup(req.Key)
			other := request("other")
			e.complete(e.grant(other), completion(other, "202", "xxx xxxxxx"))
			result(e, e.lookup(other.Key), "202", "xxx xxxxxx")
			result(e, claimed, "201", "the answer")
			result(e, looked, "201", "the answer")
			e.advance(retention)
			e.sweep()
			e.advance(tombstone)
			e.sweep()
			for range 8 {
				again := request("k")
				e.complete(e.grant(again), completion(again, "999", "xxxxxxxxxx"))
				e.advance(retention + tombstone)
				e.sweep()
			}
			result(e, claimed, "201", "the answer")
			result(e, looked, "201", "the answer")
		}},
		// To append to one part of a result must not write into the other.
		{"ToAppendIsSafe", func(e *env) {
			req := request("k")
			e.complete(e.grant(req), completion(req, "201", "the answer"))
			rec := e.lookup(req.Key)
			_ = append(rec.Result.Meta, "xxxxx"...)
			_ = append(rec.Result.Body, "xxxxx"...)
			result(e, rec, "201", "the answer")
			result(e, e.lookup(req.Key), "201", "the answer")
		}},
	}
}
