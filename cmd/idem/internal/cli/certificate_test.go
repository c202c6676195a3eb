package cli_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// certificates are the files of an authority of the test's own, of a server of it
// at 127.0.0.1, and of an authority that nobody else knows.
type certificates struct{ ca, cert, key, stranger string }

// newCertificates writes them into a folder that servers of other users can
// read.
func newCertificates(t *testing.T, dir string) certificates {
	t.Helper()
	c := certificates{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key"), filepath.Join(dir, "stranger.pem")}
	authority, authorityKey := certify(t, c.ca, "", nil, nil)
	_, _ = certify(t, c.stranger, "", nil, nil)
	_, _ = certify(t, c.cert, c.key, authority, authorityKey)
	return c
}

// certify makes a certificate for 127.0.0.1, or one of an authority without a
// parent, and writes it and, if it has a name, its key.
func certify(t *testing.T, certFile, keyFile string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "idem test " + serial.String()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		BasicConstraintsValid: true,
	}
	if parent == nil {
		c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
		parent, parentKey = c, key
	} else {
		c.KeyUsage, c.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
	if keyFile == "" {
		return made, key
	}
	b, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b}), 0o600); err != nil {
		t.Fatal(err)
	}
	letPostgresRead(t, keyFile)
	return made, key
}

// letPostgresRead lets the group of the user whom PostgreSQL runs as read the
// key, where root's tests start it as another user. It takes a key of root's
// that nobody else can read.
func letPostgresRead(t *testing.T, keyFile string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		gid, err := strconv.Atoi(u.Gid)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(keyFile, 0, gid); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(keyFile, 0o640); err != nil {
			t.Fatal(err)
		}
		return
	}
}
