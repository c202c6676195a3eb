package stores

import (
	"errors"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// remoteParse returns a parse for DSNs that are URLs with hosts. Of the settings
// in the query, those that are harmless are shown. A store that takes its DSN
// without a host finds it in a setting. Where a user alone is a token, as with
// NATS, it is kept like a password.
func remoteParse(hostless, userIsToken bool, harmless ...string) func(scheme, rest string) (DSN, error) {
	return func(scheme, rest string) (DSN, error) {
		a, err := parseAddress(rest)
		if err != nil {
			return DSN{}, err
		}
		if a.hosts == "" && !hostless {
			return DSN{}, errors.New("it names no host")
		}
		shown := scheme + "://" + a.hosts
		switch {
		case a.path == "":
		case plain(a.path):
			shown += "/" + a.path
		default:
			shown += "/…"
		}
		shown += a.showSettings(harmless)
		return newDSN(scheme, shown, secret{text: scheme + ":" + rest, words: a.secrets(harmless, userIsToken)}), nil
	}
}

// address is what a URL with hosts says.
type address struct {
	user, password string
	// hosts are as they were written, with commas between.
	hosts, path string
	settings    []setting
}

type setting struct{ name, value string }

// parseAddress takes apart what stands after the scheme's colon. It is stricter
// than the stores, so that nothing is taken for a host that might be a
// password. No error holds any of it.
func parseAddress(rest string) (address, error) {
	var a address
	rest, ok := strings.CutPrefix(rest, "//")
	if !ok {
		return a, errors.New("after its scheme stand two slashes")
	}
	// Neither host, database nor settings have an @ that is not encoded, and a
	// password may have any character where somebody forgot to encode it.
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		a.user, a.password, _ = strings.Cut(rest[:i], ":")
		rest = rest[i+1:]
	}
	rest, query, _ := strings.Cut(rest, "?")
	a.hosts, a.path, _ = strings.Cut(rest, "/")
	for host := range strings.SplitSeq(a.hosts, ",") {
		if a.hosts != "" && !isHost(host) {
			return a, errors.New("after its user stands no HOST:PORT; a character in the password that is not a letter or digit must be percent-encoded")
		}
	}
	for s := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(s, "=")
		if s != "" {
			a.settings = append(a.settings, setting{name, value})
		}
	}
	return a, nil
}

// isHost reports that text is HOST, HOST:PORT, [IPv6] or [IPv6]:PORT.
func isHost(text string) bool {
	host := text
	if i := strings.LastIndexByte(text, ':'); i > strings.LastIndexByte(text, ']') {
		host = text[:i]
		if n, err := strconv.ParseUint(text[i+1:], 10, 16); err != nil || n == 0 {
			return false
		}
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		return ok && net.ParseIP(inner) != nil
	}
	return host != "" && hostCharacters().MatchString(host)
}

func hostCharacters() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9._-]+$`) }

// plain reports that a text holds nothing that would have to be encoded, or that
// a terminal would take for a command.
func plain(text string) bool { return regexp.MustCompile(`^[A-Za-z0-9._/,:+-]*$`).MatchString(text) }

// showSettings is the query as it may be shown: harmless settings, and a sign for
// what was left out.
func (a *address) showSettings(harmless []string) string {
	var shown []string
	for _, s := range a.settings {
		text := "…"
		if slices.Contains(harmless, s.name) && plain(s.value) {
			text = s.name + "=" + s.value
		}
		if text != "…" || !slices.Contains(shown, text) {
			shown = append(shown, text)
		}
	}
	if len(shown) == 0 {
		return ""
	}
	return "?" + strings.Join(shown, "&")
}

// secrets are the texts that no error may hold, as they were written and as they
// are meant. What stands in the clear beside them (a password that is the
// user's name, or the database's) is none.
func (a *address) secrets(harmless []string, userIsToken bool) []string {
	candidates := []string{a.password}
	if userIsToken && a.password == "" {
		candidates = []string{a.user}
	}
	for _, s := range a.settings {
		if !slices.Contains(harmless, s.name) {
			candidates = append(candidates, s.value)
		}
	}
	var all []string
	for _, c := range candidates {
		shown := c == a.path || c == a.user && !userIsToken || strings.Contains(a.hosts, c)
		// What is as short stands in many words.
		if len(c) < 4 || shown {
			continue
		}
		all = append(all, c)
		if decoded, err := url.QueryUnescape(c); err == nil && decoded != c {
			all = append(all, decoded)
		}
		if decoded, err := url.PathUnescape(c); err == nil && decoded != c {
			all = append(all, decoded)
		}
	}
	// The longest first, so that no part of one is left over.
	slices.SortFunc(all, func(x, y string) int { return len(y) - len(x) })
	return slices.Compact(all)
}
