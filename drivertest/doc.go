// Package drivertest tests that a store keeps the contract of package driver.
//
// Whoever writes a store tests it with [Run], the conformance suite, which has
// a test for each rule of the contract and names it; with [RunModel], which
// compares long random histories with a model of the contract; and with
// linearize.Run, in a module of its own, which races many callers.
//
//	func harness() drivertest.Harness {
//		return drivertest.Bubble(func(t testing.TB) driver.Store {
//			s := mystore.New(nil)
//			t.Cleanup(func() { s.Close() })
//			return s
//		})
//	}
//
//	func TestConformance(t *testing.T)  { drivertest.Run(t, harness()) }
//	func TestModel(t *testing.T)        { drivertest.RunModel(t, harness(), nil) }
//	func TestLinearizable(t *testing.T) { linearize.Run(t, harness(), nil) }
//
// [Bubble] is for stores that live in one process and keep their time with
// package time. A store with a clock elsewhere fills in a [Harness] of its own,
// which says how time passes for it, and a durable one, how it is reopened:
//
//	drivertest.Run(t, drivertest.Harness{
//		New:     func(t testing.TB) driver.Store { return open(t, t.TempDir(), newClock()) },
//		Advance: func(t testing.TB, s driver.Store, d time.Duration) { s.(*mystore.Store).clock.move(d) },
//		Reopen:  func(t testing.TB, s driver.Store) driver.Store { return crashAndOpen(t, s) },
//	})
//
// A test may close the store, and what New arranged then closes it again.
//
// # Seeds
//
// Random tests print their seed, and take it from the environment variable
// IDEM_TEST_SEED: a failure says which value repeats it.
//
// # What the suite adds to the contract
//
// Where the contract leaves room the suite holds a store to this:
//
//   - A duration may be as long as a time.Duration can be: it ends, if a store's
//     clock cannot tell when, never.
//   - Abandon of a lease that has ended is the end of the claim: its nonce is not
//     granted again. The tombstone of an unknown counts from when it became
//     unknown, which is then the end of the lease.
//   - A repeated Complete says late if the first one was.
//   - Resolve with ResolveErase keeps the key known for the resolution's
//     Tombstone from now on.
//   - ErrFull refuses what would add to the unknowns: a claim of an absent key.
//     Repeats, retries of an unknown and the writes of owners go on.
//   - A lease that ends is not counted by Sweep; what is dropped and what becomes
//     a tombstone is.
//   - The oldest unknown of Stats is by Record.Age: from its claim.
//   - Wait for a token that was never granted returns nil.
//
// # What the suite leaves open
//
//   - Whether a store remembers the nonces of claims before the last, and whether
//     it grants the nonce of a claim that an operator has released.
//   - What a repeated Complete says of late when the record is a tombstone, or was
//     completed by an operator.
//   - Which error comes first when several apply to a Resolve.
//   - The names (Scope, ID) of tombstones and absent records, their Note, and the
//     Age of what is absent.
package drivertest
