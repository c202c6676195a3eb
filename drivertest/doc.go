// Package drivertest tests that a store keeps the contract of package driver.
//
// Whoever writes a store tests it with [Run], the conformance suite, which has
// a test for each rule of the contract and names it:
//
//	func TestConformance(t *testing.T) {
//		drivertest.Run(t, drivertest.Bubble(func(t testing.TB) driver.Store {
//			s := mystore.New(nil)
//			t.Cleanup(func() { s.Close() })
//			return s
//		}))
//	}
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
// The store may be closed by a test and then again by what New arranged.
package drivertest
