package driver

// Finding is one thing that was found out about a store's server, its schema,
// or its settings: what keeps the promise, and what does not.
type Finding struct {
	Severity Severity
	// Subject names what was looked at, in the engine's own words, such as
	// "synchronous_commit".
	Subject string
	// Found is what was found, such as "off".
	Found string
	// Means is a sentence: what it means for the promise. Empty for SeverityOK.
	Means string
	// Remedy is a sentence: what to do about it. Empty for SeverityOK.
	Remedy string
}

// Severity says what a finding means.
type Severity uint8

// The severities, from good to bad.
const (
	// SeverityOK: it is as it should be.
	SeverityOK Severity = iota
	// SeverityUnknown: it cannot be read from here, so nobody knows.
	SeverityUnknown
	// SeverityWarning: the promise holds, but not in every case that it could:
	// an acknowledged record may be forgotten after a power cut or a failover.
	SeverityWarning
	// SeverityError: the store cannot be used, or the promise does not hold.
	SeverityError
)

// String returns the severity as it is printed.
func (s Severity) String() string {
	switch s {
	case SeverityOK:
		return "ok"
	case SeverityUnknown:
		return "unknown"
	case SeverityWarning:
		return "warning"
	case SeverityError:
		return "error"
	}
	return "invalid"
}
