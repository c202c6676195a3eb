// Package linearize tests that the calls on one key are atomic: whatever many
// callers did at once, some order of their calls, one after another, explains
// every answer that they got.
//
// [Run] lets clients race on one key after another and has porcupine look for
// that order, with [drivertest.Model] as the judge. Time stands still meanwhile:
// what happens at its boundaries is the business of package drivertest.
//
//	func TestLinearizable(t *testing.T) {
//		linearize.Run(t, harness(), nil)
//	}
//
// It is a module of its own, so that whoever tests a store without it needs
// nothing but the standard library.
package linearize
