package idemhttp

import (
	"strings"
	"time"
)

// KeyTime returns the time that a time-based key was made at: a UUID of
// version 7 (RFC 9562, with its hyphens) or a ULID, in either case of letters.
// It is as precise as the key, which is a millisecond, and as right as the
// clock of the client. Other keys have none. It takes the id as a [KeySource]
// returns it.
func KeyTime(id string) (time.Time, bool) {
	id = plainID(id)
	var ms int64
	var ok bool
	switch len(id) {
	case 36:
		ms, ok = uuid7Millis(id)
	case 26:
		ms, ok = ulidMillis(id)
	}
	if !ok {
		return time.Time{}, false
	}
	return time.UnixMilli(ms), true
}

func uuid7Millis(s string) (int64, bool) {
	var ms int64
	digits := 0
	for i := range len(s) {
		c := s[i]
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return 0, false
			}
			continue
		}
		v := hexValue(c)
		switch {
		case v < 0,
			i == 14 && v != 7,       // the version
			i == 19 && v&0xc != 0x8: // the variant
			return 0, false
		}
		if digits < 12 {
			ms = ms<<4 | int64(v)
		}
		digits++
	}
	return ms, true
}

func ulidMillis(s string) (int64, bool) {
	var ms int64
	for i := range len(s) {
		v := strings.IndexByte("0123456789ABCDEFGHJKMNPQRSTVWXYZ", upper(s[i]))
		if v < 0 || i == 0 && v > 7 { // 26 digits of 5 bits hold 130; a ULID has 128
			return 0, false
		}
		if i < 10 {
			ms = ms<<5 | int64(v)
		}
	}
	return ms, true
}

// hexValue is the value of a hexadecimal digit, -1 for anything else.
func hexValue(c byte) int {
	switch c = lower(c); {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

func upper(c byte) byte {
	if 'a' <= c && c <= 'z' {
		c -= 'a' - 'A'
	}
	return c
}
