//go:build race

package filestore_test

// raceEnabled: under the race detector the engine checks itself too, and takes
// ten times as long; the tests that repeat themselves do so less often.
const raceEnabled = true
