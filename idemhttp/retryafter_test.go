package idemhttp_test

import (
	"testing"
	"time"

	"github.com/idem-go/idem/idemhttp"
)

func TestRetryAfterGrowsFrom1To30(t *testing.T) {
	for age, want := range map[time.Duration]int{
		-time.Second: 1, 0: 1, time.Millisecond: 1, 2 * time.Second: 1, 2*time.Second + 2: 2,
		10 * time.Second: 5, time.Minute: 30, time.Hour: 30, 1<<63 - 1: 30, -1 << 63: 1,
	} {
		if got := idemhttp.RetryAfter(age); got != time.Duration(want)*time.Second {
			t.Errorf("after %v it is %v, want %ds", age, got, want)
		}
	}
	last := time.Duration(0)
	for age := time.Duration(0); age < 2*time.Minute; age += 100 * time.Millisecond {
		if got := idemhttp.RetryAfter(age); got < last || got%time.Second != 0 {
			t.Fatalf("after %v it is %v, and was %v before", age, got, last)
		} else {
			last = got
		}
	}
}
