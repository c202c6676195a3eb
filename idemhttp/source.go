package idemhttp

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"
)

// DefaultKeyHeader is the header that names the key unless another is chosen.
const DefaultKeyHeader = "Idempotency-Key"

// KeySource finds a request's key. It is safe for use by many goroutines, and
// gives the same answer for the same request each time.
type KeySource interface {
	// Key returns the key's id. ok is false when the request carries no key of
	// this kind; an error, a [*KeyError], when it carries one that cannot be
	// taken. The body is nil unless NeedsBody.
	Key(h http.Header, body []byte) (id string, ok bool, err error)
	// NeedsBody says that Key looks into the body.
	NeedsBody() bool
}

// The ids of sources other than a header's begin with the name of the kind and
// this character. No header's key can hold it, so ids of two kinds never meet.
const (
	idMark      = "§"
	bodyKind    = "body" + idMark
	eventKind   = "event" + idMark
	webhookKind = "webhook" + idMark
)

// maxEventSource bounds the source of an event, which is a URI.
const maxEventSource = 2048

// plainID returns the id as the client chose it.
func plainID(id string) string {
	kind, rest, found := strings.Cut(id, idMark)
	if !found {
		return id
	}
	if kind+idMark == eventKind {
		length, tail, _ := strings.Cut(rest, ":")
		if n, err := strconv.Atoi(length); err == nil && n >= 0 && n+len(idMark) <= len(tail) {
			return tail[n+len(idMark):]
		}
	}
	return rest
}

type headerKey struct {
	names  []string // canonical
	labels []string // for errors
}

// HeaderKey takes the key from a header, by the rules of [ParseKey]. No names
// stand for [DefaultKeyHeader]. Where there are several, a request carries one
// of them, or the same key in each. A header that is there more than once is an
// error, whatever its values.
func HeaderKey(names ...string) KeySource {
	if len(names) == 0 {
		names = []string{DefaultKeyHeader}
	}
	k := &headerKey{}
	for _, n := range names {
		n = http.CanonicalHeaderKey(n)
		k.names = append(k.names, n)
		k.labels = append(k.labels, "the header "+n)
	}
	return k
}

func (k *headerKey) NeedsBody() bool { return false }

func (k *headerKey) headers() []string { return k.names }

func (k *headerKey) Key(h http.Header, _ []byte) (id string, ok bool, err error) {
	for i, name := range k.names {
		values := h[name]
		if len(values) == 0 {
			continue
		}
		if len(values) > 1 {
			return "", true, &KeyError{k.labels[i], reasonRepeated}
		}
		this, reason := parseKey(values[0])
		if reason != "" {
			return "", true, &KeyError{k.labels[i], reason}
		}
		if ok && this != id {
			return "", true, &KeyError{k.labels[i], reasonDiffers}
		}
		id, ok = this, true
	}
	return id, ok, nil
}

type jsonField struct {
	at    pointer
	label string
}

// JSONField takes the key from a member of a JSON body, which the pointer (RFC
// 6901) names: /idempotency_key, /meta/requestId. Its value is a string of 1 to
// 255 characters, taken as it is. A body without the member, or with null for
// it, carries no key. What is taken for an error rather than for a request
// without a key: a value that is no string, a name on the way to it that is
// given twice, and a body that calls itself JSON and is none.
//
// The ids begin with "body§".
func JSONField(at string) (KeySource, error) {
	p, err := parsePointer(at)
	if err != nil {
		return nil, fmt.Errorf("idemhttp: key field %q: %w", at, err)
	}
	return &jsonField{at: p, label: "the member " + at + " of the body"}, nil
}

func (k *jsonField) NeedsBody() bool { return true }

func (k *jsonField) Key(h http.Header, body []byte) (id string, ok bool, err error) {
	if len(body) == 0 {
		return "", false, nil
	}
	if !validJSON(body) {
		if isJSON(h.Get("Content-Type")) {
			return "", true, &KeyError{k.label, "cannot be found; send JSON that is valid, in UTF-8"}
		}
		return "", false, nil
	}
	value, ok := k.at.find(body)
	if !ok {
		return "", true, &KeyError{k.label, "is given twice; give each name once"}
	}
	if value == nil || string(value) == "null" {
		return "", false, nil
	}
	text, reason := textOf(value, MaxKey)
	if reason != "" {
		return "", true, &KeyError{k.label, reason}
	}
	return bodyKind + text, true, nil
}

// textOf returns the text of a JSON value that must be a string of 1 to limit
// characters.
func textOf(value []byte, limit int) (text, reason string) {
	if value[0] != '"' {
		return "", "is not a string; send a string"
	}
	var stack [128]byte
	b, ok := appendUnquoted(stack[:0], value)
	if !ok {
		return "", "has half of a surrogate pair; send text"
	}
	switch text = string(b); {
	case strings.TrimSpace(text) == "":
		return "", reasonEmpty
	case utf8.RuneCountInString(text) > limit:
		return "", "is too long; give it at most " + strconv.Itoa(limit) + " characters"
	}
	return text, ""
}

type standardWebhooks struct{}

// StandardWebhooks takes the key from the header webhook-id of the Standard
// Webhooks specification, as it stands. The ids begin with "webhook§".
func StandardWebhooks() KeySource { return standardWebhooks{} }

func (standardWebhooks) NeedsBody() bool { return false }

func (standardWebhooks) headers() []string { return []string{"Webhook-Id"} }

func (standardWebhooks) Key(h http.Header, _ []byte) (id string, ok bool, err error) {
	const label = "the header Webhook-Id"
	values := h["Webhook-Id"]
	if len(values) == 0 {
		return "", false, nil
	}
	if len(values) > 1 {
		return "", true, &KeyError{label, reasonRepeated}
	}
	id = strings.Trim(values[0], " \t")
	switch {
	case id == "":
		return "", true, &KeyError{label, reasonEmpty}
	case len(id) > MaxKey:
		return "", true, &KeyError{label, reasonLong}
	}
	for i := range len(id) {
		if id[i] < 0x21 || id[i] > 0x7e {
			return "", true, &KeyError{label, reasonCharacter}
		}
	}
	return webhookKind + id, true, nil
}

type firstKey []KeySource

// FirstKey tries the sources in turn and takes the first key that is there. A
// key that is there and cannot be taken is an error; what comes after it is not
// tried.
func FirstKey(sources ...KeySource) KeySource {
	if len(sources) == 1 {
		return sources[0]
	}
	return firstKey(sources)
}

func (f firstKey) NeedsBody() bool {
	for _, s := range f {
		if s.NeedsBody() {
			return true
		}
	}
	return false
}

func (f firstKey) headers() []string {
	var all []string
	for _, s := range f {
		if s, ok := s.(interface{ headers() []string }); ok {
			all = append(all, s.headers()...)
		}
	}
	return all
}

func (f firstKey) Key(h http.Header, body []byte) (id string, ok bool, err error) {
	for _, s := range f {
		if id, ok, err = s.Key(h, body); ok || err != nil {
			return id, ok, err
		}
	}
	return "", false, nil
}
