// Package idemhttp is idem for net/http: a middleware behind which a POST or
// PATCH with an Idempotency-Key takes effect once, and gives whoever sends it
// again the first answer.
//
//	guard := idem.New(store, nil)
//	protect := idemhttp.New(guard, nil)
//	http.Handle("POST /charges", protect(charges))
//
// What [New] returns is a plain func(http.Handler) http.Handler, so any router
// takes it, and a route that needs other settings takes a middleware of its own
// over the same guard:
//
//	strict := idemhttp.New(guard, &idemhttp.Options{
//		Route:       "charges",
//		RequireKey:  true,
//		Fingerprint: idemhttp.CanonicalJSON(),
//	})
//
// [Options] is all there is to set: where the key comes from ([KeySource]), who
// asks ([Principal]), what makes two requests the same ([Fingerprinting]), what
// becomes of which status ([StatusPolicy]), what a replay keeps, limits, and the
// shape of the middleware's own answers ([Problem]).
//
// A request's body is read before anything is claimed. Its handler runs on the
// claim's context, which outlives the client: [idem.FromContext] gives the
// claim, and [SetOutcome] decides about its record against the status. The
// response reaches the first client while it is made; only its end waits for the
// record to be durable. Requests without a key pass untouched.
//
// The rules, by their numbers (H1 to H18), are in docs/contract.md, and what
// callers and operators see of them in docs/http.md. [RetryAfter], [ParseKey]
// and the other helpers are what the middleware itself uses.
package idemhttp
