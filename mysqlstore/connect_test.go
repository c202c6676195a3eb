package mysqlstore_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/mysqlstore"
)

func TestDSN(t *testing.T) {
	tests := []struct {
		dsn, user, password, addr, database string
		tls                                 bool
		most                                int
	}{
		{"mysql://u:p@h:3307/d", "u", "p", "h:3307", "d", false, 32},
		{"mysql://u:p@h/d", "u", "p", "h:3306", "d", false, 32},
		{"mariadb://u@h/d?max-conns=5", "u", "", "h:3306", "d", false, 5},
		{"mysql://u%40x:p%2Fq%3F%40@[::1]:3306/d%2Fe?tls=skip-verify", "u@x", "p/q?@", "[::1]:3306", "d/e", true, 32},
		{"mysql://u:p@h/d?tls=true&interpolateParams=true&time_zone=%27%2B01%3A00%27", "u", "p", "h:3306", "d", true, 32},
		{"mysql://u:p@/d?socket=/run/my.sock&max-conns=7", "u", "p", "/run/my.sock", "d", false, 7},
		{"u:p@tcp(h:1)/d", "u", "p", "h:1", "d", false, 32},
		{"u:p/@:q@tcp(h:1)/d?max-conns=3&tls=preferred", "u", "p/@:q", "h:1", "d", true, 3},
		{"u:p@unix(/run/my.sock)/d?max-conns=3", "u", "p", "/run/my.sock", "d", false, 3},
	}
	for _, tt := range tests {
		user, password, addr, database, tls, most, err := mysqlstore.ParseDSN(tt.dsn)
		if err != nil || user != tt.user || password != tt.password || addr != tt.addr || database != tt.database || tls != tt.tls || most != tt.most {
			t.Errorf("%s: %q %q %q %q tls %v max %d, %v", tt.dsn, user, password, addr, database, tls, most, err)
		}
	}
}

// No error holds a part of a DSN that could be its password, whatever is wrong.
func TestNoPasswordInErrors(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, dsn := range []string{
		"mysql://root:hunter2@127.0.0.1:1/d",
		"mysql://root:hunter2@127.0.0.1:hunter2/d",
		"mysql://root:hunter2/x@127.0.0.1/d",
		"mysql://root:%zzhunter2@127.0.0.1/d",
		"mysql://root:hunter2@/d",
		"mysql://root:hunter2@127.0.0.1/",
		"mysql://root:hunter2@127.0.0.1/d?tls=hunter2",
		"mysql://root:hunter2@127.0.0.1/d?timeout=hunter2",
		"mysql://root:hunter2@127.0.0.1/d?%zz=hunter2",
		"mysql://root:hunter2@127.0.0.1/d?max-conns=hunter2",
		"mysql://root:hunter2@127.0.0.1/d?multiStatements=true",
		"mysql://root:hunter2@hunter2.invalid/d",
		"http://root:hunter2@127.0.0.1/d",
		"root:hunter2@127.0.0.1/d",
		"root:hunter2@tcp(127.0.0.1:1)/d",
		"root:hunter2@tcp(127.0.0.1:1/d",
		"root:hunter2@tcp(127.0.0.1:1)/d?parseTime=hunter2",
		"root:hunter2@tcp(127.0.0.1:1)/d?max-conns=%zz",
		"root:hunter2",
		"hunter2",
		"",
	} {
		db, err := mysqlstore.Connect(ctx, dsn)
		if err == nil {
			_ = db.Close()
			t.Errorf("%s: connected", dsn)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") || !strings.HasPrefix(err.Error(), "mysqlstore: ") {
			t.Errorf("the error of %s: %v", dsn, err)
		}
	}
	b := mariadb(t)
	if b == nil {
		return
	}
	for _, dsn := range []string{
		strings.Replace(b.server.DSN(), "idem:idem@", "idem:hunter2@", 1),
		strings.Replace(b.server.DSN(), "idem:idem@", "nobody:hunter2@", 1),
		b.server.DSN() + "hunter2nothing",
	} {
		o := small(mysqlstore.Options{})
		s, err := mysqlstore.Open(ctx, dsn, &o)
		if err == nil {
			_ = s.Close()
			t.Errorf("opened")
			continue
		}
		if !strings.Contains(dsn, "hunter2nothing") && strings.Contains(err.Error(), "hunter2") || !strings.HasPrefix(err.Error(), "mysqlstore: ") {
			t.Errorf("the error: %v", err)
		}
	}
}

// Nor does an error hold a key, a scope, an id, or a result.
func TestNoSecretsInErrors(t *testing.T) {
	b := private(t, nil)
	if b == nil {
		return
	}
	s := b.open(t, mysqlstore.Options{})
	req := claimOf("hunter2-scope", "hunter2-id")
	ref := grant(t, s, req)
	b.exec(t, "RENAME TABLE "+s.prefix+"records TO "+s.prefix+"gone")
	defer b.exec(t, "RENAME TABLE "+s.prefix+"gone TO "+s.prefix+"records")
	_, claim := s.Claim(t.Context(), claimOf("hunter2-scope", "hunter2-other"))
	_, done := s.Complete(t.Context(), ref, completionOf(req, "hunter2", "hunter2"))
	_, tx := s.DoTx(t.Context(), txRequestOf("hunter2-scope", "hunter2-id"), s.effect("hunter2"))
	for _, err := range []error{claim, done, tx} {
		if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "idem store migrate") {
			t.Errorf("the error: %v", err)
		}
	}
}

// Connections by TLS, with the server's certificate checked.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	ca, cert, key := certificate(t, dir)
	b := private(t, settings("ssl-cert="+cert, "ssl-key="+key, "ssl-ca="+ca))
	if b == nil {
		return
	}
	b.exec(t, "CREATE USER secret@'%' IDENTIFIED BY 'secret' REQUIRE SSL")
	b.exec(t, "GRANT ALL ON idem.* TO secret@'%'")
	dsn := strings.Replace(b.server.DSN(), "idem:idem@", "secret:secret@", 1)
	for params, ok := range map[string]bool{
		"":                 false,
		"?tls=false":       false,
		"?tls=true":        false, // nobody trusts that authority
		"?tls=skip-verify": true,
		"?tls-ca=" + ca:    true,
	} {
		db, err := mysqlstore.Connect(t.Context(), dsn+params)
		if (err == nil) != ok {
			t.Errorf("with %q: %v", params, err)
		}
		if err == nil {
			_ = db.Close()
		}
	}
	if _, err := mysqlstore.Connect(t.Context(), dsn+"?tls-ca="+filepath.Join(dir, "nothing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the file: %v", err)
	}
}

// certificate makes an authority and a certificate of 127.0.0.1 by it.
func certificate(t *testing.T, dir string) (caFile, certFile, keyFile string) {
	t.Helper()
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour), NotBefore: time.Now().Add(-time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "server"}, NotAfter: time.Now().Add(time.Hour), NotBefore: time.Now().Add(-time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	caFile, certFile, keyFile = write("ca.pem", "CERTIFICATE", caDER), write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", keyDER)
	if _, err := tls.LoadX509KeyPair(certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	return caFile, certFile, keyFile
}

// Close of a store that Open has opened closes its connections; one that New has
// made leaves them.
func TestWhoseConnections(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	o := small(mysqlstore.Options{Prefix: b.tables(t)})
	s, err := mysqlstore.Open(t.Context(), b.server.DSN(), &o)
	if err != nil {
		t.Fatal(err)
	}
	grant(t, s, claimOf("s", "k"))
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.DB().PingContext(t.Context()); err == nil {
		t.Error("the pool of Open is still open")
	}
	own := b.reopen(t, o)
	_ = own.Close()
	if err := b.db.PingContext(t.Context()); err != nil {
		t.Errorf("the pool of the caller: %v", err)
	}
	if _, err := own.Claim(t.Context(), claimOf("s", "k")); !errors.Is(err, driver.ErrClosed) {
		t.Errorf("Claim after Close: %v", err)
	}
}
