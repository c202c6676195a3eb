package idemhttp

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"slices"
	"strconv"
)

// storedVersion is the first byte of a stored response's Meta. A format that
// differs gets another; records with one that is not known cannot be read.
//
// Version 1: the status, the declared length plus one or 0 for none, the
// headers, the trailers. Headers and trailers each: the number of values in
// all, the number of names, and for each name, in the order of their bytes, the
// name, the number of its values, and these. Numbers are unsigned varints;
// strings have their length before them.
const storedVersion = 1

// Stored is the head of a response that is kept, and its trailers. The body is
// kept beside it.
type Stored struct {
	// Status is the final one, 200 to 999.
	Status int
	// Header and Trailer are what a replay repeats, the values of a name in
	// their order.
	Header, Trailer http.Header
	// Length is the Content-Length that the response declared, -1 for none.
	Length int64
}

// AppendMeta appends the response in the form of a result's Meta. Headers that
// are never kept, and those that are not by default, are left out: hop-by-hop
// fields, Content-Length, idem's own, Date, Set-Cookie and the like. The same
// response always gives the same bytes.
func (s *Stored) AppendMeta(dst []byte) []byte {
	return appendMeta(dst, s.Status, s.Length, s.Header, s.Trailer, &headerFilter{})
}

// ParseStored reads what AppendMeta wrote. An error says that the bytes are
// damaged, or from a newer version; nothing of them is to be used then.
func ParseStored(meta []byte) (Stored, error) {
	v, err := parseStored(meta)
	if err != nil {
		return Stored{}, err
	}
	s := Stored{Status: v.status, Length: v.length, Header: make(http.Header, v.header.names)}
	v.header.add(s.Header)
	if v.trailer.names > 0 {
		s.Trailer = make(http.Header, v.trailer.names)
		v.trailer.add(s.Trailer)
	}
	return s, nil
}

// readStored puts the headers of a stored response into dst, in place of those
// of the same names, and returns the rest. dst is untouched after an error.
func readStored(meta []byte, dst http.Header) (status int, trailers http.Header, err error) {
	v, err := parseStored(meta)
	if err != nil {
		return 0, nil, err
	}
	v.header.add(dst)
	if v.trailer.names > 0 {
		trailers = make(http.Header, v.trailer.names)
		v.trailer.add(trailers)
	}
	return v.status, trailers, nil
}

// appendStored appends the response of a handler, whose headers declare its
// length where they do.
func appendStored(dst []byte, status int, header, trailer http.Header, keep *headerFilter) []byte {
	length := int64(-1)
	if v := header["Content-Length"]; len(v) == 1 {
		if n, err := strconv.ParseUint(v[0], 10, 63); err == nil {
			length = int64(n)
		}
	}
	return appendMeta(dst, status, length, header, trailer, keep)
}

func appendMeta(dst []byte, status int, length int64, header, trailer http.Header, keep *headerFilter) []byte {
	dst = append(dst, storedVersion)
	dst = binary.AppendUvarint(dst, uint64(status))
	dst = binary.AppendUvarint(dst, uint64(max(length, -1)+1))
	dst = appendSection(dst, header, keep)
	return appendSection(dst, trailer, keep)
}

func appendSection(dst []byte, h http.Header, keep *headerFilter) []byte {
	var stack [32]string
	names, lines := stack[:0], 0
	for name, values := range h {
		if name != "" && len(values) > 0 && keep.keeps(name, h) {
			names = append(names, name)
			lines += len(values)
		}
	}
	slices.Sort(names)
	dst = binary.AppendUvarint(dst, uint64(lines))
	dst = binary.AppendUvarint(dst, uint64(len(names)))
	for _, name := range names {
		dst = appendPart(dst, name)
		values := h[name]
		dst = binary.AppendUvarint(dst, uint64(len(values)))
		for _, v := range values {
			dst = appendPart(dst, v)
		}
	}
	return dst
}

// storedView is a stored response whose form has been checked.
type storedView struct {
	status          int
	length          int64
	header, trailer storedSection
}

type storedSection struct {
	bytes        []byte // the names and their values
	lines, names int
}

// parseStored checks all of meta and copies nothing of it.
func parseStored(meta []byte) (v storedView, err error) {
	if len(meta) == 0 || meta[0] != storedVersion {
		return v, storedError("is in a format that this version does not know")
	}
	r := reader[[]byte]{b: meta[1:]}
	status, length := r.number(), r.number()
	v.status, v.length = int(status), int64(length)-1
	v.header = r.section()
	v.trailer = r.section()
	switch {
	case r.bad || len(r.b) > 0:
		return storedView{}, storedError("is damaged")
	case status < 200 || status > 999 || length > 1<<62:
		return storedView{}, storedError("has no final status, or a length that none can have")
	}
	return v, nil
}

func storedError(what string) error { return fmt.Errorf("idemhttp: the stored response %s", what) }

func (r *reader[T]) section() (s storedSection) {
	lines, names := r.number(), r.number()
	begin, last := r.b, T("")
	counted := uint64(0)
	for i := uint64(0); i < names && !r.bad; i++ {
		name := r.part()
		n := r.number()
		if string(name) <= string(last) || n == 0 {
			r.bad = true
		}
		last = name
		for j := uint64(0); j < n && !r.bad; j++ {
			r.part()
		}
		counted += n
	}
	if r.bad || counted != lines {
		r.bad = true
		return s
	}
	return storedSection{bytes: []byte(begin[:len(begin)-len(r.b)]), lines: int(lines), names: int(names)}
}

// add puts the section's names into dst, in place of what dst has of them.
func (s *storedSection) add(dst http.Header) {
	if s.names == 0 {
		return
	}
	r := reader[string]{b: string(s.bytes)}
	values := make([]string, 0, s.lines)
	for range s.names {
		name := r.part()
		first := len(values)
		for range r.number() {
			values = append(values, r.part())
		}
		dst[name] = values[first:len(values):len(values)]
	}
}

// reader takes numbers and strings from the front of b. Once something is not
// there it is bad, and stays so.
type reader[T string | []byte] struct {
	b   T
	bad bool
}

func (r *reader[T]) number() uint64 {
	var n uint64
	for i := 0; i < len(r.b) && i < 9; i++ {
		c := r.b[i]
		n |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			r.b = r.b[i+1:]
			return n
		}
	}
	r.bad = true
	return 0
}

func (r *reader[T]) part() T {
	n := r.number()
	if r.bad || n > uint64(len(r.b)) {
		r.bad = true
		return r.b[:0]
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}
