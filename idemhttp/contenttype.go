package idemhttp

import (
	"mime"
	"slices"
	"strings"
)

// isJSON says that a content type is JSON's own or one with the suffix +json.
func isJSON(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	kind = strings.TrimSpace(kind)
	return hasFoldSuffix(kind, "/json") || hasFoldSuffix(kind, "+json")
}

func hasFoldSuffix(s, suffix string) bool {
	return len(s) >= len(suffix) && strings.EqualFold(s[len(s)-len(suffix):], suffix)
}

// mediaType is a content type in the one form that fingerprints know it by.
type mediaType struct {
	// text is the type in lower case and its parameters in order, each as
	// ;name="value", the boundary of multipart left out; or the header as it was
	// sent.
	text string
	// parsed tells the two apart.
	parsed bool
	// json says that text is JSON in UTF-8.
	json bool
	// boundary is set for multipart/form-data that has one.
	boundary string
}

const jsonUTF8 = `application/json;charset="utf-8"`

// parseMediaType never fails: what cannot be parsed stands for itself. The
// commonest types take no allocation.
func parseMediaType(s string) mediaType {
	switch s {
	case "":
		return mediaType{}
	case "application/json":
		return mediaType{text: s, parsed: true, json: true}
	case "application/json; charset=utf-8", "application/json; charset=UTF-8", "application/json;charset=UTF-8", "application/json;charset=utf-8":
		return mediaType{text: jsonUTF8, parsed: true, json: true}
	case "application/x-www-form-urlencoded", "text/plain", "application/octet-stream":
		return mediaType{text: s, parsed: true}
	}
	kind, params, err := mime.ParseMediaType(s)
	if err != nil || strings.ContainsAny(s, "\r\n") {
		return mediaType{text: s}
	}
	m := mediaType{parsed: true}
	if kind == "multipart/form-data" {
		m.boundary = params["boundary"]
		delete(params, "boundary")
	}
	names := make([]string, 0, len(params))
	for name := range params {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	b.WriteString(kind)
	for _, name := range names {
		value := params[name]
		if name == "charset" {
			value = lowerASCII(value)
		}
		b.WriteString(";" + name + `="`)
		for i := range len(value) {
			if value[i] == '"' || value[i] == '\\' {
				b.WriteByte('\\')
			}
			b.WriteByte(value[i])
		}
		b.WriteByte('"')
	}
	m.text = b.String()
	if charset, ok := params["charset"]; !ok || strings.EqualFold(charset, "utf-8") {
		m.json = isJSON(kind)
	}
	return m
}

// normalEncoding returns the content codings in lower case, with a comma and
// nothing else between them. Another line of the header goes on with the list.
func normalEncoding(s string) string {
	if s == "" || s == "gzip" {
		return s
	}
	var codings []string
	for coding := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ',' || r == '\n' }) {
		if coding = strings.Trim(coding, " \t"); coding != "" {
			codings = append(codings, lowerASCII(coding))
		}
	}
	return strings.Join(codings, ",")
}
