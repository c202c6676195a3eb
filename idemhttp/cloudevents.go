package idemhttp

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"
)

type cloudEvents struct{}

// CloudEvents takes the key from the identity of a CloudEvent, its source and
// its id together: from the headers ce-source and ce-id (binary mode), or from
// the members of the body where the content type is application/cloudevents+json
// (structured mode). An event that lacks one of the two is an error, and so are
// a batch of events, which has no identity of its own, and an event in another
// format than JSON.
//
// The ids are "event§", the length of the source in bytes, a colon, the source,
// "§" and the event's id.
func CloudEvents() KeySource { return cloudEvents{} }

func (cloudEvents) NeedsBody() bool { return true }

func (cloudEvents) headers() []string { return []string{"Ce-Source", "Ce-Id"} }

func (cloudEvents) Key(h http.Header, body []byte) (id string, ok bool, err error) {
	kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	kind = strings.TrimSpace(kind)
	const family = "application/cloudevents"
	if len(kind) > len(family) && strings.EqualFold(kind[:len(family)], family) {
		switch rest := strings.ToLower(kind[len(family):]); {
		case rest == "+json":
			return structuredEvent(body)
		case strings.HasPrefix(rest, "-batch+"):
			return "", true, &KeyError{"the batch of events", "has no identity of its own; send each event by itself"}
		case rest[0] == '+':
			return "", true, &KeyError{"the event", "is not in JSON, so its identity cannot be read; send it as JSON, or with the headers ce-source and ce-id"}
		}
	}
	return binaryEvent(h)
}

func binaryEvent(h http.Header) (id string, ok bool, err error) {
	sources, ids := h["Ce-Source"], h["Ce-Id"]
	if len(sources) == 0 && len(ids) == 0 {
		return "", false, nil
	}
	source, reason := eventHeader(sources, maxEventSource)
	if reason != "" {
		return "", true, &KeyError{"the header Ce-Source", reason}
	}
	id, reason = eventHeader(ids, MaxKey)
	if reason != "" {
		return "", true, &KeyError{"the header Ce-Id", reason}
	}
	return eventID(source, id), true, nil
}

// eventHeader decodes the one value of a header as CloudEvents' HTTP binding
// says (3.1.3.2): quotes come off, then percent-encoding.
func eventHeader(values []string, limit int) (text, reason string) {
	switch len(values) {
	case 0:
		return "", "is missing; an event has a source and an id, send both"
	case 1:
	default:
		return "", reasonRepeated
	}
	text = strings.Trim(values[0], " \t")
	if strings.HasPrefix(text, `"`) {
		if text, reason = parseQuoted(text[1:]); reason != "" {
			return "", reason
		}
	}
	text, err := url.PathUnescape(text)
	switch {
	case err != nil || !utf8.ValidString(text):
		return "", "is not percent-encoded UTF-8; write a percent sign as %25"
	case strings.TrimSpace(text) == "":
		return "", reasonEmpty
	case utf8.RuneCountInString(text) > limit:
		return "", "is too long; give it at most " + strconv.Itoa(limit) + " characters"
	}
	return text, ""
}

func structuredEvent(body []byte) (id string, ok bool, err error) {
	if !validJSON(body) {
		return "", true, &KeyError{"the event", "cannot be read; send JSON that is valid, in UTF-8"}
	}
	source, err := eventMember(body, "source", maxEventSource)
	if err != nil {
		return "", true, err
	}
	id, err = eventMember(body, "id", MaxKey)
	if err != nil {
		return "", true, err
	}
	return eventID(source, id), true, nil
}

func eventMember(body []byte, name string, limit int) (string, error) {
	label := "the event's " + name
	value, ok := pointer{parts: []string{name}}.find(body)
	if !ok {
		return "", &KeyError{label, "is given twice; give it once"}
	}
	if value == nil || string(value) == "null" {
		return "", &KeyError{label, "is missing; an event has a source and an id, send both"}
	}
	text, reason := textOf(value, limit)
	if reason != "" {
		return "", &KeyError{label, reason}
	}
	return text, nil
}

func eventID(source, id string) string {
	return eventKind + strconv.Itoa(len(source)) + ":" + source + idMark + id
}
