package idemhttp

import "strings"

// MaxKey is the most characters that a key may have.
const MaxKey = 255

// KeyError says why a request's key cannot be taken, and what to send instead.
// It holds nothing of the key.
type KeyError struct {
	// Source is where the key was looked for, such as "the header
	// Idempotency-Key".
	Source string
	// Reason goes on after Source: what is wrong, and what to do.
	Reason string
}

// Error returns source and reason.
func (e *KeyError) Error() string { return "idemhttp: " + e.Source + " " + e.Reason }

// Detail returns the error as a sentence for the client.
func (e *KeyError) Detail() string { return sentence(e.Source + " " + e.Reason) }

// The reasons why a key is refused. Each ends with what to do.
const (
	reasonEmpty     = "is empty; give it 1 to 255 visible characters"
	reasonLong      = "is too long; give it 1 to 255 characters"
	reasonRepeated  = "was sent more than once; send one"
	reasonDiffers   = "and another header give different keys; send one of them"
	reasonParams    = "has something after the closing quote; end it there"
	reasonUnclosed  = "has no closing quote; add it"
	reasonEscape    = `has a backslash that escapes neither a quote nor a backslash; write it as \\`
	reasonCharacter = "has a character that is not visible ASCII; use letters, digits and hyphens"
	reasonBare      = "has a space, comma, semicolon, quote or backslash; put it in double quotes"
)

// ParseKey returns the key that a header's value names. The value is a
// Structured Field String (RFC 9651), such as "8e03978e", or the same without
// the quotes; both name one key. Spaces and tabs around the value are HTTP's
// and do not count; spaces inside the quotes do.
//
// A key has 1 to 255 characters, all of them visible ASCII or, in quotes, also
// spaces. Anything else is a [*KeyError]: an empty value, nothing but spaces,
// parameters after the closing quote, and unquoted a space, a comma, a
// semicolon, a quote or a backslash.
func ParseKey(value string) (string, error) {
	id, reason := parseKey(value)
	if reason != "" {
		return "", &KeyError{Source: "the key", Reason: reason}
	}
	return id, nil
}

// parseKey is ParseKey with the reason in place of the error; "" is success.
func parseKey(value string) (id, reason string) {
	value = strings.Trim(value, " \t")
	if value == "" {
		return "", reasonEmpty
	}
	if value[0] == '"' {
		id, reason = parseQuoted(value[1:])
	} else {
		id, reason = parseBare(value)
	}
	switch {
	case reason != "":
		return "", reason
	case len(id) > MaxKey:
		return "", reasonLong
	case strings.Trim(id, " ") == "":
		return "", reasonEmpty
	}
	return id, ""
}

func parseBare(s string) (id, reason string) {
	for i := range len(s) {
		switch c := s[i]; {
		case c == ' ' || c == '\t' || c == ',' || c == ';' || c == '"' || c == '\\':
			return "", reasonBare
		case c < 0x21 || c > 0x7e:
			return "", reasonCharacter
		}
	}
	return s, ""
}

// parseQuoted takes what follows the opening quote.
func parseQuoted(s string) (id, reason string) {
	escaped := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			if i+1 != len(s) {
				return "", reasonParams
			}
			if escaped {
				return unescapeQuoted(s[:i]), ""
			}
			return s[:i], ""
		case c == '\\':
			i++
			if i < len(s) && s[i] != '"' && s[i] != '\\' {
				return "", reasonEscape
			}
			escaped = true
		case c < 0x20 || c > 0x7e:
			return "", reasonCharacter
		}
	}
	return "", reasonUnclosed
}

// unescapeQuoted drops the backslash of each escape in s, which holds whole
// escapes only.
func unescapeQuoted(s string) string {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' {
			i++
		}
		b = append(b, s[i])
	}
	return string(b)
}

// sentence gives s a capital letter and a full stop.
func sentence(s string) string {
	if s == "" {
		return ""
	}
	if c := s[0]; 'a' <= c && c <= 'z' {
		s = string(c-'a'+'A') + s[1:]
	}
	return s + "."
}
