package stores

import (
	"fmt"
	"slices"
	"strings"
)

// DSN names a store. It comes from [Parse]. However it is printed, it shows no
// more than its scheme, hosts, database and harmless settings: what else a DSN
// holds may be a password.
type DSN struct {
	scheme, shown string
	// secret is behind a function, since fmt prints what a pointer points to.
	secret func() *secret
}

func newDSN(scheme, shown string, s secret) DSN {
	return DSN{scheme: scheme, shown: shown, secret: func() *secret { return &s }}
}

// secret is what a DSN holds that is not to be shown.
type secret struct {
	// text is the DSN as the store takes it.
	text string
	// words are the passwords in it, in each of their spellings.
	words []string
}

// Parse reads a DSN and touches nothing. Its errors wrap [ErrDSN] and hold no
// more of the DSN than its scheme: the rest may be a password.
func Parse(dsn string) (DSN, error) {
	scheme, rest, found := strings.Cut(dsn, ":")
	if !found || !isScheme(scheme) {
		return DSN{}, fmt.Errorf("%w: it has no scheme; the ones known are %s", ErrDSN, forms())
	}
	scheme = strings.ToLower(scheme)
	k := kindOf(scheme)
	if k == nil {
		// Before // stands a scheme; before a colon alone anything may.
		if !strings.HasPrefix(rest, "//") {
			scheme = "its scheme"
		} else {
			scheme += "://"
		}
		return DSN{}, fmt.Errorf("%w: nothing is known of %s; the ones known are %s", ErrDSN, scheme, forms())
	}
	if strings.ContainsRune(rest, 0) {
		return DSN{}, fmt.Errorf("%w: it holds a NUL byte; write %s", ErrDSN, k.form)
	}
	d, err := k.parse(scheme, rest)
	if err != nil {
		return DSN{}, fmt.Errorf("%w: %w; write %s", ErrDSN, err, k.form)
	}
	return d, nil
}

// isScheme keeps what is not a scheme (a user's name, a whole DSN without one)
// out of texts that quote the scheme.
func isScheme(s string) bool {
	if s == "" || len(s) > 20 {
		return false
	}
	for i, c := range []byte(s) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (i == 0 || !strings.ContainsRune("0123456789+.-", rune(c))) {
			return false
		}
	}
	return true
}

// String returns the DSN as it may be shown.
func (d DSN) String() string { return d.shown }

// GoString is String.
func (d DSN) GoString() string { return d.shown }

// MarshalText is String, for logs in JSON.
func (d DSN) MarshalText() ([]byte, error) { return []byte(d.shown), nil }

// Dir returns the directory of a file store, and "" of any other.
func (d DSN) Dir() string {
	if d.scheme != "file" {
		return ""
	}
	return d.secret().text
}

// NeedsSchema reports that [DSN.Migrate] must have made something before the
// store can be opened.
func (d DSN) NeedsSchema() bool {
	k := kindOf(d.scheme)
	return k != nil && k.migrate != nil
}

// InMemory reports that the store is the memory of this process.
func (d DSN) InMemory() bool { return d.scheme == "memory" }

// discreet returns err, or only its text without the passwords of the DSN where
// they are in it. The stores keep them out of their errors; this is for what
// their clients may say one day.
func (d DSN) discreet(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	for _, w := range d.secret().words {
		text = strings.ReplaceAll(text, w, "…")
	}
	if text == err.Error() {
		return err
	}
	return &discreetError{text}
}

// discreetError is an error whose causes would tell a password.
type discreetError struct{ text string }

// Error returns the text without the password.
func (e *discreetError) Error() string { return e.text }

// kind is what is known of one kind of store.
type kind struct {
	schemes []string
	// form is how its DSN is written, for the texts of errors.
	form string
	// parse reads what stands after the scheme and its colon.
	parse func(scheme, rest string) (DSN, error)
	engine
}

// kinds are the kinds of stores in the order in which they are listed.
func kinds() []kind {
	return []kind{memory(), file(), sqlite(), postgres(), mysql(), redis(), nats()}
}

func kindOf(scheme string) *kind {
	for _, k := range kinds() {
		if slices.Contains(k.schemes, scheme) {
			return &k
		}
	}
	return nil
}

// forms names the DSNs that are known.
func forms() string {
	var all []string
	for _, k := range kinds() {
		all = append(all, k.form)
	}
	return strings.Join(all[:len(all)-1], ", ") + " and " + all[len(all)-1]
}
