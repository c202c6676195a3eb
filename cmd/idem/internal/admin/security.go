package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// refuseBrowser refuses what a page in a browser could have sent: requests for
// a name that an attacker may have pointed here (DNS rebinding), requests from
// another origin, and bodies of the types that need no consent.
func (a *admin) refuseBrowser(r *http.Request) *problem {
	if !a.hostAllowed(r) {
		return refuse(http.StatusForbidden, "The Host header names neither the loopback nor the address of this interface. Ask by its address, or allow the name with --admin-host.")
	}
	if len(r.Header["Origin"]) > 0 {
		return refuse(http.StatusForbidden, "This interface is not for pages in a browser: requests with an Origin are refused.")
	}
	for _, site := range r.Header["Sec-Fetch-Site"] {
		if site != "none" && site != "same-origin" {
			return refuse(http.StatusForbidden, "This interface is not for pages in a browser: requests from another site are refused.")
		}
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return nil
	}
	switch types := r.Header["Content-Type"]; {
	case len(types) == 0 || len(types) == 1 && types[0] == "":
		if r.ContentLength != 0 {
			return refuse(http.StatusUnsupportedMediaType, "A body must say that it is JSON: send Content-Type: application/json.")
		}
	case len(types) > 1 || !isJSON(types[0]):
		return refuse(http.StatusUnsupportedMediaType, "Send Content-Type: application/json, or no body and no type.")
	}
	return nil
}

func isJSON(contentType string) bool {
	t, _, err := mime.ParseMediaType(contentType)
	return err == nil && t == "application/json"
}

// hostAllowed looks at the name that the client used. A literal address is as
// good as its socket: no name was resolved, so none can have been bent.
func (a *admin) hostAllowed(r *http.Request) bool {
	host := normalHost(r.Host)
	if host == "localhost" || a.hosts[host] {
		return true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	ip = ip.Unmap().WithZone("")
	if ip.IsLoopback() {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && local.AddrPort().Addr().Unmap().WithZone("") == ip
}

// normalHost returns the host alone, in lower case: no port, no brackets, no
// final dot.
func normalHost(hostport string) string {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// tokenHash is what is kept of the token: comparing hashes takes the same time
// whatever was sent, and however long it is.
type tokenHash [sha256.Size]byte

func hashToken(token string) *tokenHash {
	h := tokenHash(sha256.Sum256([]byte(token)))
	return &h
}

// authorized reports that no token is needed, or that the request has it.
func (a *admin) authorized(r *http.Request) bool {
	if a.token == nil {
		return true
	}
	sent := r.Header["Authorization"]
	if len(sent) != 1 {
		return false
	}
	scheme, token, found := strings.Cut(sent[0], " ")
	if !found || !strings.EqualFold(scheme, "Bearer") {
		return false
	}
	h := hashToken(strings.TrimSpace(token))
	return subtle.ConstantTimeCompare(a.token[:], h[:]) == 1
}
