package idemhttp

import "time"

// RetryAfter is how long a client should wait before it asks again for an
// operation whose first run has lasted for age: half of that, in whole seconds,
// at least 1 and at most 30.
func RetryAfter(age time.Duration) time.Duration {
	const unit, most = time.Second, 30
	return min(max((age/2+unit-1)/unit, 1), most) * unit
}
