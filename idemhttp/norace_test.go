//go:build !race

package idemhttp_test

// raceEnabled says that allocations are not those of an ordinary build.
const raceEnabled = false
