package natsstore_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/idem-go/idem/natsstore"
)

// No error holds a password, however the DSN is malformed.
func TestNoPasswordInErrors(t *testing.T) {
	for _, dsn := range []string{
		"nats://idem:hunter2@127.0.0.1:1/b",
		"nats://hunter2@127.0.0.1:1/b",
		"nats://idem:hunter2@/b",
		"nats://idem:hunter2@127.0.0.1:1/b/c",
		"nats://idem:hunter2@127.0.0.1:1/b?x=hunter2",
		"nats://idem:hunter2@127.0.0.1:1/b?hunter2=x",
		"nats://idem:hunter2%zz@127.0.0.1:1/b",
		"nats://idem:hun/ter2hunter2@127.0.0.1:1/b",
		"nats://idem:hunter2@127.0.0.1:port/b",
		"nats://idem:hunter2@127.0.0.1:1/b?replicas=hunter2",
		"nats://idem:hunter2@127.0.0.1:1/b?replicas=2",
		"nats://idem:hunter2@127.0.0.1:1/b?max_bytes=hunter2",
		"nats://idem:hunter2@127.0.0.1:1/b?sync=hunter2",
		"nats://idem:hunter2@127.0.0.1:1/b?tls=hunter2",
		"nats://idem:hunter2@127.0.0.1:1/b?%zz",
		"nats://idem:hunter2@127.0.0.1:1/b?ca=/none&tls=true",
		"nats://idem:hunter2@127.0.0.1:1/b?cert=/none&tls=true",
		"nats://idem:hunter2@127.0.0.1:1/b?cert=/none&key=/none&tls=true",
		"nats://idem:hunter2@127.0.0.1:1/b?creds=/none",
		"nats://idem:hunter2@127.0.0.1:1/b.c",
		"idem:hunter2@127.0.0.1:1/b",
		"nats:/idem:hunter2@127.0.0.1:1/b",
		"nats//idem:hunter2@127.0.0.1",
		"postgres://idem:hunter2@127.0.0.1/b",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		_, err := natsstore.Open(ctx, dsn, nil)
		cancel()
		if err == nil {
			t.Errorf("%s was opened", dsn)
			continue
		}
		if text := err.Error(); strings.Contains(text, "hunter2") || strings.Contains(text, "ter2") || !strings.HasPrefix(text, "natsstore: ") {
			t.Errorf("%s: %v", dsn, err)
		}
	}
}

func TestOptionsOf(t *testing.T) {
	o, err := natsstore.OptionsOf("tls://u:p@a:1,b:2/some_bucket?domain=hub&replicas=3&max_bytes=1000&sync=always", &natsstore.Options{Bucket: "other", PollEvery: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if o.Bucket != "some_bucket" || o.Domain != "hub" || o.Replicas != 3 || o.MaxBytes != 1000 || !o.SyncAlways || o.PollEvery != time.Minute {
		t.Errorf("%+v", o)
	}
	if o, err := natsstore.OptionsOf("nats://a", &natsstore.Options{Bucket: "kept"}); err != nil || o.Bucket != "kept" {
		t.Errorf("%+v %v", o, err)
	}
}

// serve starts a server in this process.
func serve(t *testing.T, o *server.Options) string {
	t.Helper()
	o.Host, o.Port, o.NoSigs, o.NoLog = "127.0.0.1", -1, true, true
	o.JetStream, o.StoreDir = true, t.TempDir()
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("no server")
	}
	return s.Addr().String()
}

func TestPasswordsAndTokens(t *testing.T) {
	addr := serve(t, &server.Options{Username: "idem", Password: "hunter2/@:%"})
	nc := connect(t, "nats://idem:hunter2%2F%40%3A%25@"+addr)
	if err := natsstore.Migrate(t.Context(), nc, nil); err != nil {
		t.Fatal(err)
	}
	s := opened(t, "nats://idem:hunter2/@:%25@"+addr+"/idem", nil)
	grant(t, s, request("k"))
	if _, err := natsstore.Connect(t.Context(), "nats://idem:wrong-hunter2@"+addr); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a wrong password: %v", err)
	}
	addr = serve(t, &server.Options{Authorization: "hunter2"})
	connect(t, "nats://hunter2@"+addr)
	if _, err := natsstore.Connect(t.Context(), "nats://hunter3@"+addr); err == nil || strings.Contains(err.Error(), "hunter") {
		t.Errorf("a wrong token: %v", err)
	}
}

func TestTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(certFile, certPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	addr := serve(t, &server.Options{TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS12,
	}})
	own := "?ca=" + certFile + "&cert=" + certFile + "&key=" + keyFile
	for _, dsn := range []string{"tls://" + addr + "/b" + own, "nats://" + addr + "/b" + own + "&tls=true"} {
		nc := connect(t, dsn)
		if err := natsstore.Migrate(t.Context(), nc, &natsstore.Options{Bucket: "b"}); err != nil {
			t.Fatal(err)
		}
		if state, err := nc.TLSConnectionState(); err != nil || !state.HandshakeComplete {
			t.Errorf("%s: %v", dsn, err)
		}
	}
	for _, dsn := range []string{"tls://" + addr + "/b", "nats://" + addr + "/b", "tls://" + addr + "/b?ca=" + certFile} {
		if nc, err := natsstore.Connect(t.Context(), dsn); err == nil {
			nc.Close()
			t.Errorf("%s was taken", dsn)
		}
	}
}
