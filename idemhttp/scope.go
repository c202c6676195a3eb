package idemhttp

import (
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// NormalHost returns the name in a request's Host: in lower case, without a
// port, without a final dot, an IPv6 address without its brackets and in its
// shortest form. Only ASCII letters change their case.
func NormalHost(hostport string) string {
	host := hostport
	if strings.HasPrefix(host, "[") || strings.Count(host, ":") == 1 {
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
	}
	if strings.Contains(host, ":") {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
		if addr, err := netip.ParseAddr(host); err == nil {
			return addr.String()
		}
	}
	return lowerASCII(strings.TrimSuffix(host, "."))
}

func lowerASCII(s string) string {
	for i := range len(s) {
		if lower(s[i]) != s[i] {
			b := []byte(s)
			for ; i < len(b); i++ {
				b[i] = lower(b[i])
			}
			return string(b)
		}
	}
	return s
}

// scopeLabel returns the label of a scope: its parts, percent-encoded, with
// slashes between them. route is left out when it is "". A principal of "" is
// that of [NoPrincipal], and stands as an asterisk: no other can, since an
// asterisk is percent-encoded. So two different scopes never have one label.
func scopeLabel(host, route, principal string) string {
	var stack [160]byte
	b := appendPathEscape(stack[:0], host)
	if route != "" {
		b = append(b, '/')
		b = appendPathEscape(b, route)
	}
	b = append(b, '/')
	if principal == "" {
		b = append(b, '*')
	} else {
		b = appendPathEscape(b, principal)
	}
	return string(b)
}

// appendPathEscape appends url.PathEscape(s).
func appendPathEscape(b []byte, s string) []byte {
	for i := range len(s) {
		switch c := lower(s[i]); {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '.', c == '_', c == '~', c == ':':
		default:
			return append(b, url.PathEscape(s)...)
		}
	}
	return append(b, s...)
}
