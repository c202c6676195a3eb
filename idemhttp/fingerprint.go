package idemhttp

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/idem-go/idem/driver"
)

// The rules that fingerprints are made by. Their numbers are stored with every
// record, and what a number stands for never changes: a rule that is mended
// gets a new one.
const (
	// RuleWhole takes method, path, query, content type, content encoding and
	// body.
	RuleWhole uint8 = 1
	// RuleCanonicalJSON is RuleWhole with JSON bodies in their canonical form.
	RuleCanonicalJSON uint8 = 2
	// RuleMembers is RuleWhole with chosen members in place of a JSON body.
	RuleMembers uint8 = 3
	// RuleCustom takes method, path, and what a function of the application's
	// returns.
	RuleCustom uint8 = 4
)

// Fingerprinting makes the fingerprints by which a request that is sent again
// is told from another one under the same key. The zero value is
// [Whole]. It is safe for use by many goroutines.
//
// Method, path and query count as they were sent. Of the content type case,
// order of parameters and spaces do not count, nor does the case of a charset;
// one that cannot be parsed counts as it was sent. Headers other than the
// content's type and encoding never count.
//
// A body of multipart/form-data counts by its parts, in their order, each with
// its headers and its content, since clients draw another boundary each time.
// Any other body, one that cannot be parsed, and one with a content encoding
// count by their bytes. A body that was compared by its bytes never has the
// fingerprint of one that was compared otherwise.
type Fingerprinting struct {
	rule    uint8
	members []pointer
	custom  func(*http.Request, []byte) ([]byte, error)
}

// Whole compares bodies by their bytes, or parts.
func Whole() *Fingerprinting { return &Fingerprinting{rule: RuleWhole} }

// CanonicalJSON compares JSON bodies by their canonical form (RFC 8785), so
// that neither spaces nor the order of members count. JSON that this form
// cannot take is compared by its bytes: names given twice, text that is not
// Unicode, numbers that a double does not hold to the last digit, and what is
// nested deeper than 128.
func CanonicalJSON() *Fingerprinting { return &Fingerprinting{rule: RuleCanonicalJSON} }

// ChosenMembers compares JSON bodies by the values that the pointers (RFC 6901)
// name and by nothing else of the body, so that a timestamp or a trace id that
// changes with every retry makes no other request. A member that is missing
// differs from one that is null. Bodies that are no JSON, and those where a
// name on the way is given twice or a chosen value has no canonical form, are
// compared by their bytes.
//
// The pointers are part of the fingerprint; their order is not.
func ChosenMembers(pointers ...string) (*Fingerprinting, error) {
	if len(pointers) == 0 {
		return nil, fmt.Errorf("idemhttp: fingerprint: name at least one member, such as /amount")
	}
	sorted := slices.Clone(pointers)
	slices.Sort(sorted)
	f := &Fingerprinting{rule: RuleMembers}
	for _, s := range slices.Compact(sorted) {
		p, err := parsePointer(s)
		if err != nil {
			return nil, fmt.Errorf("idemhttp: fingerprint member %q: %w", s, err)
		}
		f.members = append(f.members, p)
	}
	return f, nil
}

// CustomFingerprint compares requests by method, path, and what fn returns for
// them. It is called once a request, may be called by many goroutines at once,
// and must neither change the request nor keep the body. It returns the same
// bytes whenever the same request is sent; an error refuses the request.
func CustomFingerprint(fn func(r *http.Request, body []byte) ([]byte, error)) *Fingerprinting {
	return &Fingerprinting{rule: RuleCustom, custom: fn}
}

// Rule returns the rule that new records are made by.
func (f *Fingerprinting) Rule() uint8 {
	if f.rule == 0 {
		return RuleWhole
	}
	return f.rule
}

// Parts is what fingerprints are made from. It keeps the body, which must not
// change as long as the parts are used.
type Parts struct {
	Method string
	// Path is the path as it was sent, percent-encoded.
	Path string
	// RawQuery is the query as it was sent, without the question mark.
	RawQuery string
	// ContentType and ContentEncoding are the headers' values, "" where there
	// are none; several lines are joined by line feeds, which no value can hold.
	ContentType, ContentEncoding string
	Body                         []byte

	custom []byte
}

// Parts returns the parts of a request whose body has been read. For a request
// that a server received, the path is that of the request line, whatever
// handlers like [http.StripPrefix] have made of its URL. The error is that of
// the function given to [CustomFingerprint]; other rules have none.
func (f *Fingerprinting) Parts(r *http.Request, body []byte) (Parts, error) {
	p := Parts{
		Method:          r.Method,
		Path:            sentPath(r),
		RawQuery:        r.URL.RawQuery,
		ContentType:     lines(r.Header["Content-Type"]),
		ContentEncoding: lines(r.Header["Content-Encoding"]),
		Body:            body,
	}
	if f.custom == nil {
		return p, nil
	}
	sum, err := f.custom(r, body)
	if err != nil {
		return p, fmt.Errorf("idemhttp: fingerprint: %w", err)
	}
	if sum == nil {
		sum = []byte{}
	}
	p.custom = sum
	return p, nil
}

func sentPath(r *http.Request) string {
	if strings.HasPrefix(r.RequestURI, "/") {
		path, _, _ := strings.Cut(r.RequestURI, "?")
		return path
	}
	return r.URL.EscapedPath()
}

func lines(values []string) string {
	switch len(values) {
	case 0:
		return ""
	case 1:
		return values[0]
	}
	return strings.Join(values, "\n")
}

// Sum returns the fingerprint of the parts by that rule, which may be another
// than [Fingerprinting.Rule]: records are compared by the rule that they were
// made by. It reports false when the rule is not known, or needs members or a
// function that f was not made with.
func (f *Fingerprinting) Sum(rule uint8, p *Parts) (driver.Fingerprint, bool) {
	fp := driver.Fingerprint{Rule: rule}
	var stack [512]byte
	b := append(stack[:0], "idem fingerprint\x00"...)
	b = append(b, rule)
	switch rule {
	case RuleWhole, RuleCanonicalJSON:
	case RuleMembers:
		if len(f.members) == 0 {
			return driver.Fingerprint{}, false
		}
		b = binary.AppendUvarint(b, uint64(len(f.members)))
		for _, m := range f.members {
			b = appendPart(b, m.text)
		}
	case RuleCustom:
		if p.custom == nil {
			return driver.Fingerprint{}, false
		}
		b = appendPart(b, p.Method)
		b = appendPart(b, p.Path)
		b = appendPart(b, p.custom)
		fp.Sum = sha256.Sum256(b)
		return fp, true
	default:
		return driver.Fingerprint{}, false
	}
	kind, encoding := parseMediaType(p.ContentType), normalEncoding(p.ContentEncoding)
	form, sum, ok := f.bodySum(rule, p.Body, kind, encoding)
	if !ok && kind.boundary != "" {
		kind = mediaType{text: p.ContentType} // by bytes: the boundary is one of them
	}
	b = appendPart(b, p.Method)
	b = appendPart(b, p.Path)
	b = appendPart(b, p.RawQuery)
	b = append(b, boolByte(kind.parsed))
	b = appendPart(b, kind.text)
	b = appendPart(b, encoding)
	b = append(b, byte(form))
	b = append(b, sum[:]...)
	fp.Sum = sha256.Sum256(b)
	return fp, true
}

// bodyForm says what of a body was compared. The numbers are part of the
// fingerprints.
type bodyForm byte

const (
	formBytes     bodyForm = 0
	formMultipart bodyForm = 1
	formCanonical bodyForm = 2
	formMembers   bodyForm = 3
)

// bodySum returns what stands for the body. It reports false where the body is
// compared by its bytes.
func (f *Fingerprinting) bodySum(rule uint8, body []byte, kind mediaType, encoding string) (bodyForm, [32]byte, bool) {
	if encoding == "" {
		switch {
		case kind.boundary != "":
			if sum, ok := multipartSum(body, kind.boundary); ok {
				return formMultipart, sum, true
			}
		case kind.json && rule == RuleCanonicalJSON:
			if text, ok := canonicalJSON(make([]byte, 0, len(body)), body); ok {
				return formCanonical, sha256.Sum256(text), true
			}
		case kind.json && rule == RuleMembers:
			if sum, ok := membersSum(body, f.members); ok {
				return formMembers, sum, true
			}
		}
	}
	return formBytes, sha256.Sum256(body), false
}

// membersSum is a hash of the chosen values: of each, whether it is there, and
// its canonical form.
func membersSum(body []byte, members []pointer) (sum [32]byte, ok bool) {
	if !validJSON(body) {
		return sum, false
	}
	var all, text []byte
	for _, m := range members {
		value, ok := m.find(body)
		if !ok {
			return sum, false
		}
		all = append(all, boolByte(value != nil))
		if value == nil {
			continue
		}
		if text, ok = canonicalValue(text[:0], value); !ok {
			return sum, false
		}
		all = appendPart(all, text)
	}
	return sha256.Sum256(all), true
}

// appendPart appends a part after its length, so that no two lists of parts
// have the same bytes.
func appendPart[T string | []byte](b []byte, part T) []byte {
	b = binary.AppendUvarint(b, uint64(len(part)))
	return append(b, part...)
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}
