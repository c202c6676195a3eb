package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
)

// address is where a listener is to be.
type address struct {
	host string
	port int
}

func parseAddress(flag, text string) (address, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return address{}, usage(fmt.Sprintf("%s: %q is not HOST:PORT", flag, text), "write 127.0.0.1:8080, [::1]:8080, or :8080 for every address")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return address{}, usage(fmt.Sprintf("%s: %q is not a port", flag, port), "give a number from 0 to 65535; 0 takes any that is free")
	}
	return address{host: strings.ToLower(host), port: int(n)}, nil
}

// meets reports that two listeners could not both be had.
func (a address) meets(b address) bool {
	return a.port == b.port && a.port != 0 && (a.host == b.host || a.every() || b.every() || a.loopback() && b.loopback() && (a.host == "localhost" || b.host == "localhost"))
}

func (a address) every() bool {
	ip, err := netip.ParseAddr(a.host)
	return a.host == "" || err == nil && ip.Unmap().IsUnspecified()
}

func (a address) loopback() bool {
	ip, err := netip.ParseAddr(a.host)
	return a.host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// listen opens a listener, or says in a sentence why it cannot.
func listen(flag, text string) (net.Listener, error) {
	l, err := net.Listen("tcp", text)
	if err == nil {
		return l, nil
	}
	var dns *net.DNSError
	what := fmt.Sprintf("%s: cannot listen on %s: %v", flag, text, err)
	hint := "choose another address with " + flag
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		what, hint = fmt.Sprintf("%s: another program listens on %s", flag, text), "stop it, or choose another port with "+flag
	case errors.Is(err, fs.ErrPermission):
		what, hint = fmt.Sprintf("%s: this user may not listen on %s", flag, text), "choose a port from 1024 on with "+flag+", or grant the right to lower ones"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		what, hint = fmt.Sprintf("%s: this machine has no address such as %s", flag, text), "choose one that it has, or an empty host for all of them"
	case errors.As(err, &dns):
		what, hint = fmt.Sprintf("%s: the host of %s cannot be found", flag, text), "give an address in numbers"
	}
	return nil, &usageError{what: what, hint: hint, cause: err}
}

// isLoopback looks at what a listener got, whatever its name promised.
func isLoopback(l net.Listener) bool {
	t, ok := l.Addr().(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}

// maxToken bounds the token file, so that a wrong file is noticed.
const maxToken = 4096

// readToken reads the admin address's bearer token: the file's text, without
// the white space around it.
func readToken(file string) (string, error) {
	const hint = "put one long random word into it, such as the output of: openssl rand -hex 32"
	what := "--admin-token-file " + file
	b, err := readSmall(file, maxToken)
	if err != nil && !errors.Is(err, errLarge) {
		return "", &usageError{what: what + " cannot be read: " + reason(err), hint: hint, cause: err}
	}
	b = bytes.TrimSpace(b)
	switch {
	case len(b) == 0:
		return "", usage(what+" is empty", hint)
	case err != nil || bytes.ContainsFunc(b, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", usage(what+" holds something else than one word of visible ASCII", hint)
	}
	return string(b), nil
}

// reason returns what the system said, without the path that is said already.
func reason(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}
