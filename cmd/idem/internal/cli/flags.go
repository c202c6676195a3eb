package cli

import (
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/idemhttp"
)

// duration is a flag for a length of time that is at least min.
type duration struct {
	d   time.Duration
	min time.Duration
}

// Set implements pflag.Value.
func (f *duration) Set(s string) error {
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return fmt.Errorf("%q is not a length of time; write 500ms, 30s, 15m or 24h", s)
	case d < f.min && f.min == 0:
		return fmt.Errorf("%s is negative", s)
	case d < f.min && f.min == 1:
		return fmt.Errorf("%s is too short: it must be more than zero", s)
	case d < f.min:
		return fmt.Errorf("%s is too short: it must be at least %s", s, short(f.min))
	}
	f.d = d
	return nil
}

// String implements pflag.Value.
func (f *duration) String() string { return short(f.d) }

// Type implements pflag.Value; it stands in the help.
func (f *duration) Type() string { return "duration" }

// short drops the zeros that time.Duration's own form ends in: 24h, not
// 24h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// size is a flag for a number of bytes, at least 1.
type size int64

// Set implements pflag.Value.
func (f *size) Set(s string) error {
	n, err := parseSize(s)
	if err != nil {
		return err
	}
	*f = size(n)
	return nil
}

// String implements pflag.Value.
func (f *size) String() string {
	for _, u := range units() {
		if u.bytes > 1 && int64(*f) >= u.bytes && int64(*f)%u.bytes == 0 {
			return strconv.FormatInt(int64(*f)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(*f), 10) + "B"
}

// Type implements pflag.Value; it stands in the help.
func (f *size) Type() string { return "size" }

type unit struct {
	name  string
	bytes int64
}

// units are those of IEC first, so that a size is shown in them.
func units() []unit {
	return []unit{
		{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
		{"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"B", 1},
	}
}

func parseSize(s string) (int64, error) {
	digits, unitBytes := s, int64(1)
	for _, u := range units() {
		if len(s) > len(u.name) && strings.EqualFold(s[len(s)-len(u.name):], u.name) {
			digits, unitBytes = strings.TrimSpace(s[:len(s)-len(u.name)]), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is not a size; write 65536, 64KiB, 10MiB or 1GiB", s)
	case n < 1:
		return 0, fmt.Errorf("%s is too small: it must be at least 1 byte", s)
	case n > math.MaxInt32*int64(1<<10)/unitBytes:
		return 0, fmt.Errorf("%s is too large: it may be 2TiB at most", s)
	}
	return n * unitBytes, nil
}

// count is a flag for a number that is at least 1.
type count int

// Set implements pflag.Value.
func (f *count) Set(s string) error {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 1 {
		return fmt.Errorf("%q is not a number of 1 or more", s)
	}
	*f = count(n)
	return nil
}

// String implements pflag.Value.
func (f *count) String() string { return strconv.Itoa(int(*f)) }

// Type implements pflag.Value; it stands in the help.
func (f *count) Type() string { return "number" }

// scope is the flag that says who asks.
type scope struct {
	text      string
	principal idemhttp.Principal
}

// Set implements pflag.Value.
func (f *scope) Set(s string) error {
	name, isHeader := strings.CutPrefix(s, "header:")
	switch {
	case isHeader:
		p, err := idemhttp.HeaderPrincipal(name)
		if err != nil {
			return fmt.Errorf("%q names no header that could say who asks; write header:X-Tenant", s)
		}
		f.principal = p
	case s == "authorization":
		f.principal = idemhttp.AuthorizationPrincipal()
	case s == "none":
		f.principal = idemhttp.NoPrincipal()
	default:
		return fmt.Errorf("%q is not known; write authorization, header:NAME or none", s)
	}
	f.text = s
	return nil
}

// String implements pflag.Value.
func (f *scope) String() string { return f.text }

// Type implements pflag.Value; it stands in the help.
func (f *scope) Type() string { return "authorization|header:NAME|none" }

// choice is a flag that takes one of a few words, each with what it stands for.
type choice[T comparable] struct {
	value T
	words []word[T]
}

type word[T any] struct {
	text  string
	value T
}

// Set implements pflag.Value.
func (f *choice[T]) Set(s string) error {
	for _, w := range f.words {
		if w.text == s {
			f.value = w.value
			return nil
		}
	}
	return fmt.Errorf("%q is not one of %s", s, f.Type())
}

// String implements pflag.Value.
func (f *choice[T]) String() string {
	for _, w := range f.words {
		if w.value == f.value {
			return w.text
		}
	}
	return ""
}

// Type implements pflag.Value; it stands in the help.
func (f *choice[T]) Type() string {
	texts := make([]string, len(f.words))
	for i, w := range f.words {
		texts[i] = w.text
	}
	return strings.Join(texts, "|")
}

func unknownWords() []word[idem.UnknownPolicy] {
	return []word[idem.UnknownPolicy]{{"refuse", idem.RefuseUnknown}, {"retry", idem.RetryUnknown}}
}

func logWords() []word[bool] { return []word[bool]{{"text", false}, {"json", true}} }

func levelWords() []word[slog.Level] {
	return []word[slog.Level]{{"debug", slog.LevelDebug}, {"info", slog.LevelInfo}, {"warn", slog.LevelWarn}, {"error", slog.LevelError}}
}
