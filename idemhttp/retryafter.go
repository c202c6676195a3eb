package idemhttp

import "time"

// RetryAfter is how long a client should wait before it asks again for an
// operation whose first run has lasted for age: half of that, in whole seconds,
// at least 1 and at most 30.
func RetryAfter(age time.Duration) time.Duration {
	return min(max((age/2+time.Second-1).Truncate(time.Second), time.Second), 30*time.Second)
}
