package idemhttp

import (
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// validJSON says that b is one JSON text in valid UTF-8. The functions below
// take only what has passed it, and so have no errors of syntax to report.
func validJSON(b []byte) bool { return utf8.Valid(b) && json.Valid(b) }

// skipSpace returns the first index from pos on that is not white space.
func skipSpace(b []byte, pos int) int {
	for pos < len(b) && (b[pos] == ' ' || b[pos] == '\t' || b[pos] == '\n' || b[pos] == '\r') {
		pos++
	}
	return pos
}

// skipString returns the index after the string that begins at pos.
func skipString(b []byte, pos int) int {
	for pos++; b[pos] != '"'; pos++ {
		if b[pos] == '\\' {
			pos++
		}
	}
	return pos + 1
}

// skipValue returns the index after the value that begins at pos.
func skipValue(b []byte, pos int) int {
	depth := 0
	for {
		switch b[pos] {
		case '"':
			pos = skipString(b, pos)
		case '{', '[':
			depth++
			pos++
		case '}', ']':
			depth--
			pos++
		case ' ', '\t', '\n', '\r', ',', ':':
			pos++
			continue
		default:
			pos = skipScalar(b, pos)
		}
		if depth == 0 {
			return pos
		}
	}
}

// skipScalar returns the index after the number or literal that begins at pos.
func skipScalar(b []byte, pos int) int {
	for pos < len(b) {
		switch b[pos] {
		case ' ', '\t', '\n', '\r', ',', ':', '}', ']':
			return pos
		}
		pos++
	}
	return pos
}

// appendUnquoted appends the text of the string literal s, quotes included. It
// reports false for a surrogate without its partner, which no UTF-8 can hold.
func appendUnquoted(dst, s []byte) ([]byte, bool) {
	s = s[1 : len(s)-1]
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			dst = append(dst, s[i])
			continue
		}
		i++
		switch s[i] {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r := hex4(s[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				if i+6 >= len(s) || s[i+1] != '\\' || s[i+2] != 'u' {
					return dst, false
				}
				if r = utf16.DecodeRune(r, hex4(s[i+3:])); r == utf8.RuneError {
					return dst, false
				}
				i += 6
			}
			dst = utf8.AppendRune(dst, r)
		default:
			dst = append(dst, s[i])
		}
	}
	return dst, true
}

func hex4(s []byte) rune {
	return rune(hexValue(s[0])<<12 | hexValue(s[1])<<8 | hexValue(s[2])<<4 | hexValue(s[3]))
}

// pointer is a JSON Pointer (RFC 6901), as written and in its parts.
type pointer struct {
	text  string
	parts []string
}

func parsePointer(s string) (pointer, error) {
	p := pointer{text: s}
	if s == "" {
		return p, nil
	}
	if s[0] != '/' || !utf8.ValidString(s) {
		return p, errors.New("a JSON Pointer begins with a slash, such as /requestId")
	}
	for part := range strings.SplitSeq(s[1:], "/") {
		for i := range len(part) {
			if part[i] == '~' && (i+1 == len(part) || part[i+1] != '0' && part[i+1] != '1') {
				return p, errors.New("a ~ in a JSON Pointer is written ~0, and a / inside of a name ~1")
			}
		}
		part = strings.ReplaceAll(part, "~1", "/")
		p.parts = append(p.parts, strings.ReplaceAll(part, "~0", "~"))
	}
	return p, nil
}

// find returns the value that p points at, nil when there is none. It reports
// false when a name on the way is given twice, so that two readers may disagree
// about what p points at.
func (p pointer) find(b []byte) (value []byte, ok bool) {
	pos := skipSpace(b, 0)
	for _, part := range p.parts {
		switch b[pos] {
		case '{':
			pos, ok = findMember(b, pos, part)
		case '[':
			pos, ok = findElement(b, pos, part), true
		default:
			return nil, true
		}
		if !ok || pos < 0 {
			return nil, ok
		}
	}
	return b[pos:skipValue(b, pos)], true
}

// findMember returns where the value of a member begins, -1 for none, and false
// when the object that begins at pos has the name twice.
func findMember(b []byte, pos int, name string) (int, bool) {
	at := -1
	var stack [64]byte
	for pos = skipSpace(b, pos+1); b[pos] != '}'; {
		end := skipString(b, pos)
		text, whole := appendUnquoted(stack[:0], b[pos:end])
		pos = skipSpace(b, end)
		pos = skipSpace(b, pos+1) // the colon
		if whole && string(text) == name {
			if at >= 0 {
				return 0, false
			}
			at = pos
		}
		pos = skipSpace(b, skipValue(b, pos))
		if b[pos] == ',' {
			pos = skipSpace(b, pos+1)
		}
	}
	return at, true
}

// findElement returns where the element of the array at pos begins, or -1.
func findElement(b []byte, pos int, index string) int {
	if index == "" || len(index) > 9 || index[0] == '0' && index != "0" {
		return -1
	}
	n := 0
	for i := range len(index) {
		if index[i] < '0' || index[i] > '9' {
			return -1
		}
		n = n*10 + int(index[i]-'0')
	}
	for pos = skipSpace(b, pos+1); b[pos] != ']'; n-- {
		if n == 0 {
			return pos
		}
		pos = skipSpace(b, skipValue(b, pos))
		if b[pos] == ',' {
			pos = skipSpace(b, pos+1)
		}
	}
	return -1
}
