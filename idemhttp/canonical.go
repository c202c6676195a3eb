package idemhttp

import (
	"bytes"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
)

// maxCanonicalDepth bounds the nesting of JSON that is put into canonical form,
// since each level may move what is inside of it once more.
const maxCanonicalDepth = 128

// canonicalJSON appends the canonical form of src (RFC 8785) to dst. It reports
// false for what that form cannot take without making two different texts one:
// what is no JSON in UTF-8, names that are given twice, half a surrogate pair,
// numbers that a double does not hold to the last digit; and for what is nested
// deeper than 128.
func canonicalJSON(dst, src []byte) ([]byte, bool) {
	if !validJSON(src) {
		return dst, false
	}
	return canonicalValue(dst, src)
}

// canonicalValue is canonicalJSON for what validJSON has taken.
func canonicalValue(dst, src []byte) ([]byte, bool) {
	c := canonical{src: src, dst: dst}
	ok := c.value(0)
	return c.dst, ok && !c.inexact
}

// canonical writes one text. Names and members of the objects that are open
// lie on stacks that they share.
type canonical struct {
	src, dst []byte
	pos      int
	names    []byte
	members  []member
	spare    []byte
	// inexact says that a number was not what it reads as.
	inexact bool
}

// member is a name, as a part of canonical.names, and what was written for the
// whole member, as a part of canonical.dst.
type member struct{ name, nameEnd, start, end int }

func (c *canonical) value(depth int) bool {
	c.pos = skipSpace(c.src, c.pos)
	switch c.src[c.pos] {
	case '{':
		return depth < maxCanonicalDepth && c.object(depth+1)
	case '[':
		return depth < maxCanonicalDepth && c.array(depth+1)
	case '"':
		end := skipString(c.src, c.pos)
		lit := c.src[c.pos:end]
		c.pos = end
		return c.string(lit)
	case 't', 'f', 'n':
		end := skipScalar(c.src, c.pos)
		c.dst = append(c.dst, c.src[c.pos:end]...)
		c.pos = end
		return true
	}
	end := skipScalar(c.src, c.pos)
	num := c.src[c.pos:end]
	c.pos = end
	return c.number(num)
}

func (c *canonical) array(depth int) bool {
	c.dst = append(c.dst, '[')
	c.pos = skipSpace(c.src, c.pos+1)
	for c.src[c.pos] != ']' {
		if !c.value(depth) {
			return false
		}
		c.pos = skipSpace(c.src, c.pos)
		if c.src[c.pos] == ',' {
			c.dst = append(c.dst, ',')
			c.pos++
		}
	}
	c.dst = append(c.dst, ']')
	c.pos++
	return true
}

func (c *canonical) object(depth int) bool {
	firstMember, firstName := len(c.members), len(c.names)
	c.dst = append(c.dst, '{')
	begin := len(c.dst)
	c.pos = skipSpace(c.src, c.pos+1)
	for c.src[c.pos] != '}' {
		m := member{name: len(c.names), start: len(c.dst)}
		end := skipString(c.src, c.pos)
		var ok bool
		if c.names, ok = appendUnquoted(c.names, c.src[c.pos:end]); !ok {
			return false
		}
		m.nameEnd = len(c.names)
		c.dst = appendQuoted(c.dst, c.names[m.name:])
		c.dst = append(c.dst, ':')
		c.pos = skipSpace(c.src, end) + 1 // the colon
		if !c.value(depth) {
			return false
		}
		m.end = len(c.dst)
		c.members = append(c.members, m)
		c.pos = skipSpace(c.src, c.pos)
		if c.src[c.pos] == ',' {
			c.dst = append(c.dst, ',')
			c.pos = skipSpace(c.src, c.pos+1)
		}
	}
	c.pos++
	if !c.sort(c.members[firstMember:], begin) {
		return false
	}
	c.dst = append(c.dst, '}')
	c.members, c.names = c.members[:firstMember], c.names[:firstName]
	return true
}

// sort puts the members, which were written from begin on, in their order. It
// reports false when two have one name.
func (c *canonical) sort(members []member, begin int) bool {
	order := func(a, b member) int {
		return compareUTF16(c.names[a.name:a.nameEnd], c.names[b.name:b.nameEnd])
	}
	if !slices.IsSortedFunc(members, order) {
		slices.SortFunc(members, order)
		c.spare = append(c.spare[:0], c.dst[begin:]...)
		c.dst = c.dst[:begin]
		for i, m := range members {
			if i > 0 {
				c.dst = append(c.dst, ',')
			}
			c.dst = append(c.dst, c.spare[m.start-begin:m.end-begin]...)
		}
	}
	for i := 1; i < len(members); i++ {
		if order(members[i-1], members[i]) == 0 {
			return false
		}
	}
	return true
}

func (c *canonical) string(lit []byte) bool {
	if bytes.IndexByte(lit, '\\') < 0 {
		c.dst = append(c.dst, lit...)
		return true
	}
	text, ok := appendUnquoted(c.spare[:0], lit)
	c.spare = text
	c.dst = appendQuoted(c.dst, text)
	return ok
}

// appendQuoted appends text as ECMAScript's JSON.stringify writes it.
func appendQuoted(dst, text []byte) []byte {
	dst = append(dst, '"')
	for _, b := range text {
		switch b {
		case '"', '\\':
			dst = append(dst, '\\', b)
		case '\b':
			dst = append(dst, `\b`...)
		case '\f':
			dst = append(dst, `\f`...)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			if b < 0x20 {
				const digits = "0123456789abcdef"
				dst = append(dst, `\u00`...)
				b0, b1 := digits[b>>4], digits[b&15]
				dst = append(dst, b0, b1)
				continue
			}
			dst = append(dst, b)
		}
	}
	return append(dst, '"')
}

// compareUTF16 compares two texts in UTF-8 as their UTF-16 code units would be.
// The two orders differ only where one has a surrogate pair.
func compareUTF16(a, b []byte) int {
	for len(a) > 0 && len(b) > 0 {
		if a[0] < utf8.RuneSelf && b[0] < utf8.RuneSelf {
			if a[0] != b[0] {
				return int(a[0]) - int(b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		ra, na := utf8.DecodeRune(a)
		rb, nb := utf8.DecodeRune(b)
		if ra != rb {
			if (ra > math.MaxUint16) != (rb > math.MaxUint16) {
				ra, rb = firstUnit(ra), firstUnit(rb)
			}
			return int(ra - rb)
		}
		a, b = a[na:], b[nb:]
	}
	return len(a) - len(b)
}

// firstUnit is the first UTF-16 code unit of r.
func firstUnit(r rune) rune {
	if r > math.MaxUint16 {
		return 0xd800 + (r-0x10000)>>10
	}
	return r
}

func (c *canonical) number(tok []byte) bool {
	f, err := strconv.ParseFloat(string(tok), 64)
	if err != nil {
		return false
	}
	start := len(c.dst)
	c.dst = appendNumber(c.dst, f)
	if !sameDecimal(tok, c.dst[start:]) {
		c.inexact = true
	}
	return true
}

// appendNumber appends a finite number as ECMAScript writes it.
func appendNumber(dst []byte, f float64) []byte {
	if f == 0 {
		return append(dst, '0') // the minus of -0 too is not written
	}
	if a := math.Abs(f); a >= 1e-6 && a < 1e21 {
		return strconv.AppendFloat(dst, f, 'f', -1, 64)
	}
	dst = strconv.AppendFloat(dst, f, 'e', -1, 64)
	// strconv writes at least two digits of the exponent, ECMAScript one.
	if n := len(dst); dst[n-2] == '0' && (dst[n-3] == '-' || dst[n-3] == '+') {
		dst[n-2] = dst[n-1]
		dst = dst[:n-1]
	}
	return dst
}

// sameDecimal says that two JSON numbers have one value, to the last digit.
// One of them, b, is the shortest form of a double.
func sameDecimal(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	da, ok := decimalOf(a)
	if !ok {
		return false
	}
	db, _ := decimalOf(b)
	return da == db
}

// decimal is a number: its digits without zeros at either end, and the power of
// ten of the last one.
type decimal struct {
	minus  bool
	digits [17]byte // no shortest form of a double has more
	n, exp int
}

// decimalOf reads a JSON number, and reports false when it has more digits than
// the shortest form of any double.
func decimalOf(tok []byte) (d decimal, ok bool) {
	if tok[0] == '-' {
		d.minus = true
		tok = tok[1:]
	}
	mantissa, exponent := tok, []byte(nil)
	if i := bytes.IndexAny(tok, "eE"); i >= 0 {
		mantissa, exponent = tok[:i], tok[i+1:]
	}
	zeros, fraction := 0, false
	for _, b := range mantissa {
		if b == '.' {
			fraction = true
			continue
		}
		if fraction {
			d.exp--
		}
		if b == '0' {
			zeros++
			continue
		}
		if d.n == 0 {
			zeros = 0
		}
		if d.n+zeros >= len(d.digits) {
			return d, false
		}
		for ; zeros > 0; zeros-- {
			d.digits[d.n] = '0'
			d.n++
		}
		d.digits[d.n] = b
		d.n++
	}
	if d.n == 0 {
		return decimal{}, true
	}
	d.exp += zeros + exponentOf(exponent)
	return d, true
}

// exponentOf reads an exponent; a huge one comes out as one that no double has.
func exponentOf(s []byte) int {
	sign, n := 1, 0
	for _, b := range s {
		switch {
		case b == '-':
			sign = -1
		case b != '+' && n < 1e9:
			n = n*10 + int(b-'0')
		}
	}
	return sign * n
}
