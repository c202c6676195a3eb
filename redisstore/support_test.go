package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/redisstore"
	"github.com/idem-go/idem/testserver"
)

func request(id string) driver.ClaimRequest {
	return driver.ClaimRequest{
		Key: driver.KeyOf("scope", id), Scope: "scope", ID: id, Nonce: driver.NewNonce(),
		Fingerprint: driver.Fingerprint{Rule: 1, Sum: driver.KeyOf("fingerprint", id)},
		Lease:       time.Hour, Tombstone: 24 * time.Hour,
	}
}

func completion(req driver.ClaimRequest, body string) driver.Completion {
	return driver.Completion{
		Result: driver.Result{Meta: []byte("200"), Body: []byte(body)}, Scope: req.Scope, ID: req.ID,
		Fingerprint: req.Fingerprint, Retention: time.Hour, Tombstone: 24 * time.Hour,
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func grant(t testing.TB, s driver.Store, req driver.ClaimRequest) driver.Ref {
	t.Helper()
	reply, err := s.Claim(t.Context(), req)
	must(t, err)
	if !reply.Granted {
		t.Fatalf("the claim was not granted: the record is %v", reply.Record.State)
	}
	return driver.Ref{Key: req.Key, Token: reply.Record.Token}
}

func complete(t testing.TB, s driver.Store, ref driver.Ref, c driver.Completion) {
	t.Helper()
	_, err := s.Complete(t.Context(), ref, c)
	must(t, err)
}

// state looks a key up, which must be in a state.
func state(t testing.TB, s driver.Store, key driver.Key, want driver.State) driver.Record {
	t.Helper()
	rec, err := s.Lookup(t.Context(), key)
	must(t, err)
	if rec.State != want {
		t.Fatalf("the record is %v; it should be %v", rec.State, want)
	}
	return rec
}

func wantErr(t testing.TB, got, want error, call string) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("%s: %v; it should give: %v", call, got, want)
	}
}

// eventually polls until f returns nil.
func eventually(t testing.TB, within time.Duration, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), within)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within %v: %v", within, err)
		case <-tick.C:
		}
	}
}

// own is a server of the test's own.
func own(t testing.TB, settings map[string]string) *testserver.Server {
	t.Helper()
	return ownWith(t, &testserver.Options{Settings: settings})
}

func ownWith(t testing.TB, o *testserver.Options) *testserver.Server {
	t.Helper()
	if len(o.Settings) == 0 {
		// One that somebody else's variable names is not ours to kill.
		o.Settings = map[string]string{"appendonly": "yes"}
	}
	s, err := testserver.Redis(o)
	if !testserver.Need(t, "redis", err) {
		return nil
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// with returns a DSN with one more setting.
func with(t testing.TB, dsn, name, value string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	must(t, err)
	q := u.Query()
	q.Set(name, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// do runs a command, which must succeed.
func do(t testing.TB, c rueidis.Client, args ...string) *rueidis.RedisMessage {
	t.Helper()
	m, err := c.Do(context.WithoutCancel(t.Context()), c.B().Arbitrary(args[0]).Args(args[1:]...).Build().ToRetryable()).ToMessage()
	if err != nil && !rueidis.IsRedisNil(err) {
		t.Fatalf("%s: %v", args[0], err)
	}
	return &m
}

// recordKey is the key of a record in a store of four partitions.
func recordKey(b *bed, key driver.Key) string { return indexKey(b, key) + string(key[:]) }

func indexKey(b *bed, key driver.Key) string {
	return fmt.Sprintf("%s{%03x}", b.opts.Prefix, int(key[1])%b.opts.Partitions)
}

func opened(t testing.TB, dsn string, o *redisstore.Options) *redisstore.Store {
	t.Helper()
	s, err := redisstore.Open(t.Context(), dsn, o)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// callsOf is how often a command was called, as INFO commandstats says.
func callsOf(info, command string) (n int64) {
	for line := range strings.Lines(info) {
		if rest, ok := strings.CutPrefix(line, "cmdstat_"+command+":calls="); ok {
			number, _, _ := strings.Cut(rest, ",")
			n, _ = strconv.ParseInt(number, 10, 64)
		}
	}
	return n
}
