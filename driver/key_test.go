package driver_test

import (
	"testing"

	"github.com/idem-go/idem/driver"
)

// Trap 24: the parts of a key never pass for one another.
func TestTrap24PartsNeverMeet(t *testing.T) {
	pairs := [][2]string{{"a:b", "c"}, {"a", "b:c"}, {"a", "b\x00c"}, {"a\x00b", "c"}, {"", "abc"}, {"abc", ""}, {"ab", "c"}, {"a", "bc"}}
	seen := map[driver.Key][2]string{}
	for _, p := range pairs {
		k := driver.KeyOf(p[0], p[1])
		if q, ok := seen[k]; ok {
			t.Errorf("%q and %q have one key", p, q)
		}
		seen[k] = p
	}
}

// A golden value: data outlives code.
func TestKeyOfIsStable(t *testing.T) {
	const want = "0347612457a8100264b146f9e1375ed53486e2dad40043b9fca224aa255ca7d1"
	if got := driver.KeyOf("host/tenant", "8e03978e-40d5-43e8-bc93-6894a57f9324").String(); got != want {
		t.Errorf("KeyOf changed: %s, want %s", got, want)
	}
}
