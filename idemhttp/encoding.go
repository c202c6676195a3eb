package idemhttp

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Accepts says that a client which sent this Accept-Encoding takes a response
// with the content coding, such as "gzip", or "identity" for none. Without the
// header, "", it takes identity alone: HTTP would allow any coding, and clients
// that say nothing understand none. Several lines of the header are joined by
// commas.
func Accepts(acceptEncoding, coding string) bool {
	q, _ := weight(acceptEncoding, coding)
	return q > 0
}

// weight returns the weight of a coding, in thousandths, and whether the header
// speaks of it, be it by an asterisk.
func weight(acceptEncoding, coding string) (q int, said bool) {
	coding = plainCoding(coding)
	star, starSaid := 0, false
	for rest := acceptEncoding; rest != ""; {
		var item string
		item, rest, _ = strings.Cut(rest, ",")
		name, params, _ := strings.Cut(item, ";")
		name = plainCoding(strings.Trim(name, " \t"))
		isStar := name == "*"
		if !isStar && !strings.EqualFold(name, coding) {
			continue
		}
		w, ok := parseWeight(params)
		switch {
		case !ok:
		case isStar:
			star, starSaid = w, true
		default:
			return w, true
		}
	}
	if starSaid {
		return star, true
	}
	if strings.EqualFold(coding, identity) {
		return 1000, false
	}
	return 0, false
}

const identity = "identity"

// plainCoding returns the name that is used today.
func plainCoding(coding string) string {
	if strings.EqualFold(coding, "x-gzip") {
		return "gzip"
	}
	return coding
}

// parseWeight reads the parameters of a coding: nothing, or ;q= and a number
// from 0 to 1 with at most three decimals.
func parseWeight(params string) (thousandths int, ok bool) {
	params = strings.Trim(params, " \t")
	if params == "" {
		return 1000, true
	}
	if len(params) < 3 || lower(params[0]) != 'q' || params[1] != '=' {
		return 0, false
	}
	number := params[2:]
	if number[0] != '0' && number[0] != '1' || len(number) > 5 || len(number) > 1 && number[1] != '.' {
		return 0, false
	}
	thousandths = int(number[0]-'0') * 1000
	unit := 100
	for i := 2; i < len(number); i++ {
		if number[i] < '0' || number[i] > '9' {
			return 0, false
		}
		thousandths += int(number[i]-'0') * unit
		unit /= 10
	}
	return thousandths, thousandths <= 1000
}

// NarrowAcceptEncoding leaves of a request's Accept-Encoding what idem can
// undo, gzip and identity, with the weights that they had: a coding that was
// refused stays refused. A request without the header stays without. The
// header's old values are not changed in place.
func NarrowAcceptEncoding(h http.Header) {
	values, there := h["Accept-Encoding"]
	if !there {
		return
	}
	all := strings.Join(values, ",")
	if len(values) == 1 && (all == "gzip" || all == identity) {
		return
	}
	gz, _ := weight(all, "gzip")
	id, said := weight(all, identity)
	narrow := identity
	switch {
	case gz > 0 && !said:
		narrow = weighted("gzip", gz)
	case gz > 0:
		narrow = weighted("gzip", gz) + ", " + weighted(identity, id)
	case said:
		narrow = weighted(identity, id)
	}
	h["Accept-Encoding"] = []string{narrow}
}

func weighted(coding string, q int) string {
	switch q {
	case 0:
		return coding + ";q=0"
	case 1000:
		return coding
	}
	return coding + ";q=" + strings.TrimRight(fmt.Sprintf("0.%03d", q), "0")
}

// errBomb says that a body is larger, once decompressed, than is allowed.
var errBomb = errors.New("idemhttp: the decompressed body is over the limit")

// suit makes a stored response suit a client that may not accept its coding: a
// body in gzip is decompressed, to at most limit bytes, and its headers are
// mended. It reports false when that cannot be done; head is untouched then.
func suit(head, request http.Header, body []byte, limit int) ([]byte, bool) {
	codings := head["Content-Encoding"]
	if len(codings) == 0 || len(body) == 0 {
		return body, true
	}
	accepted := strings.Join(request["Accept-Encoding"], ",")
	coding := normalEncoding(strings.Join(codings, ","))
	if coding == "" || acceptsAll(accepted, coding) {
		return body, true
	}
	// A part of a compressed body is no compressed body.
	if plainCoding(coding) != "gzip" || len(head["Content-Range"]) > 0 {
		return nil, false
	}
	plain, err := gunzip(body, limit)
	if err != nil {
		return nil, false
	}
	undoCoding(head, len(plain))
	return plain, true
}

// acceptsAll says that each of the codings, which were applied one over the
// other, is accepted.
func acceptsAll(accepted, codings string) bool {
	for coding := range strings.SplitSeq(codings, ",") {
		if coding != identity && !Accepts(accepted, coding) {
			return false
		}
	}
	return true
}

// gunzip decompresses a whole body, checksums included.
func gunzip(body []byte, limit int) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("idemhttp: decompress a stored body: %w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("idemhttp: decompress a stored body: %w", err)
	case len(plain) > limit:
		return nil, errBomb
	}
	return plain, nil
}

// undoCoding mends the headers of a body that was decompressed to n bytes. Its
// entity tag becomes weak, since the bytes are others; digests of the bytes
// that were are dropped.
func undoCoding(h http.Header, n int) {
	delete(h, "Content-Encoding")
	for _, digest := range [...]string{"Content-Digest", "Repr-Digest", "Digest", "Content-Md5"} {
		delete(h, digest)
	}
	if len(h["Content-Length"]) > 0 {
		h["Content-Length"] = []string{strconv.Itoa(n)}
	}
	if tag := h.Get("Etag"); tag != "" && !strings.HasPrefix(tag, "W/") {
		h["Etag"] = []string{"W/" + tag}
	}
	if !listed(h["Vary"], "Accept-Encoding") && !listed(h["Vary"], "*") {
		h["Vary"] = append(h["Vary"][:len(h["Vary"]):len(h["Vary"])], "Accept-Encoding")
	}
}
