package natsstore_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/natsstore"
)

// spoiled is a bucket whose stream is not as Migrate makes it.
type spoiled struct {
	name    string
	spoil   func(c *jetstream.StreamConfig)
	subject string
	mends   bool
}

func spoils() []spoiled {
	return []spoiled{
		{"not idem's", func(c *jetstream.StreamConfig) { c.Metadata = nil }, "metadata idem.format", false},
		{"newer", func(c *jetstream.StreamConfig) { c.Metadata["idem.format"] = "2" }, "metadata idem.format", false},
		{"forgets by age", func(c *jetstream.StreamConfig) { c.MaxAge = 1e12 }, "max_age", true},
		{"forgets when full", func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld }, "discard", true},
		{"keeps a history", func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 5 }, "max_msgs_per_subject", true},
		{"answers from replicas", func(c *jetstream.StreamConfig) { c.AllowDirect = true }, "allow_direct", true},
		{"keeps no word", func(c *jetstream.StreamConfig) { c.RePublish = nil }, "republish", true},
		{"is in memory", func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }, "storage", false},
		{"holds another's subjects", func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "other."+c.Name) }, "subjects", true},
	}
}

// A bucket that would lose records, that is missing, or that is another's is
// refused in one sentence, and Check says why; what Migrate can mend, it mends.
func TestTrap64ABucketThatIsNotAsItMustBe(t *testing.T) {
	nc := connect(t, shared.DSN())
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	o := &natsstore.Options{Bucket: "missing", SweepEvery: -1}
	if _, err := natsstore.New(t.Context(), nc, o); err == nil || !strings.Contains(err.Error(), "`idem store migrate`") {
		t.Errorf("a missing bucket: %v", err)
	}
	if _, err := natsstore.Check(t.Context(), nc, o); err == nil || !strings.Contains(err.Error(), "`idem store migrate`") {
		t.Errorf("Check of a missing bucket: %v", err)
	}
	for _, sp := range spoils() {
		t.Run(sp.name, func(t *testing.T) {
			o := &natsstore.Options{Bucket: freshBucket(), SweepEvery: -1}
			if err := natsstore.Migrate(t.Context(), nc, o); err != nil {
				t.Fatal(err)
			}
			st, err := js.Stream(t.Context(), "KV_"+o.Bucket)
			if err != nil {
				t.Fatal(err)
			}
			c := st.CachedInfo().Config
			if err := js.DeleteStream(t.Context(), c.Name); err != nil {
				t.Fatal(err)
			}
			sp.spoil(&c)
			if _, err := js.CreateStream(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			found := finding(t, o, sp.subject)
			if found.Severity < driver.SeverityWarning || found.Means == "" || found.Remedy == "" {
				t.Errorf("Check finds %+v", found)
			}
			s, err := natsstore.New(t.Context(), nc, o)
			switch {
			case found.Severity == driver.SeverityError && (err == nil || !strings.Contains(err.Error(), "`idem store migrate`") || strings.Contains(err.Error(), "\n")):
				t.Errorf("New: %v", err)
			case found.Severity == driver.SeverityWarning && err != nil:
				t.Errorf("New: %v", err)
			}
			if s != nil {
				s.Close()
			}
			err = natsstore.Migrate(t.Context(), nc, o)
			if sp.mends != (err == nil) && sp.subject != "storage" {
				t.Fatalf("Migrate: %v", err)
			}
			if sp.mends {
				if found := finding(t, o, sp.subject); found.Severity >= driver.SeverityWarning {
					t.Errorf("after Migrate: %+v", found)
				}
			}
		})
	}
}

// finding is what Check finds of a subject; zero if it finds nothing.
func finding(t *testing.T, o *natsstore.Options, subject string) driver.Finding {
	t.Helper()
	all, err := natsstore.Check(t.Context(), connect(t, shared.DSN()), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.Severity == driver.SeverityOK && (f.Means != "" || f.Remedy != "") || f.Severity != driver.SeverityOK && (f.Means == "" || f.Remedy == "") || f.Found == "" {
			t.Errorf("a finding that says too little or too much: %+v", f)
		}
	}
	for _, f := range all {
		if f.Subject == subject {
			return f
		}
	}
	return driver.Finding{}
}

// A user who may not write is told at the start.
func TestTrap64AUserWhoMayOnlyRead(t *testing.T) {
	reader := &server.User{Username: "reader", Password: "p", Permissions: &server.Permissions{
		Publish: &server.SubjectPermission{Deny: []string{"$KV.>"}},
	}}
	addr := serve(t, &server.Options{Users: []*server.User{{Username: "all", Password: "p"}, reader}})
	if err := natsstore.Migrate(t.Context(), connect(t, "nats://all:p@"+addr), nil); err != nil {
		t.Fatal(err)
	}
	s := opened(t, "nats://all:p@"+addr, nil)
	grant(t, s, request("k"))
	if _, err := natsstore.New(t.Context(), connect(t, "nats://reader:p@"+addr), nil); err == nil || !strings.Contains(err.Error(), "may not publish") {
		t.Errorf("New: %v", err)
	}
}

// The permissions that the package's comment names are enough.
func TestThePermissionsThatAreNeeded(t *testing.T) {
	const bucket = "b"
	writer := &server.User{Username: "writer", Password: "p", Permissions: &server.Permissions{
		Publish: &server.SubjectPermission{Allow: []string{
			"$KV.b.>", "$JS.API.STREAM.INFO.KV_b", "$JS.API.STREAM.MSG.GET.KV_b", "$JS.API.STREAM.MSG.DELETE.KV_b",
			"$JS.API.CONSUMER.CREATE.KV_b.>", "$JS.API.CONSUMER.MSG.NEXT.KV_b.>", "$JS.API.CONSUMER.DELETE.KV_b.>",
			"$JS.API.CONSUMER.INFO.KV_b.>",
			"$JS.API.STREAM.CREATE.KV_b", "$JS.API.STREAM.UPDATE.KV_b",
		}},
		Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>", "idem.b.>"}},
	}}
	addr := serve(t, &server.Options{Users: []*server.User{writer}})
	nc := connect(t, "nats://writer:p@"+addr)
	o := &natsstore.Options{Bucket: bucket, SweepEvery: -1, PollEvery: 1e15}
	if err := natsstore.Migrate(t.Context(), nc, o); err != nil {
		t.Fatal(err)
	}
	var shift atomic.Int64
	s, err := natsstore.New(t.Context(), nc, o.WithShift(&shift))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	req := request("k")
	ref := grant(t, s, req)
	ended := waits(t.Context(), s, ref, 1)
	eventually(t, "the wait has begun", func(context.Context) bool { return s.Watches() == 1 })
	complete(t, s, ref, completion(req, "r"))
	wantErr(t, <-ended, nil, "Wait")
	if page, err := s.List(t.Context(), driver.Query{Limit: 10}); err != nil || len(page.Records) != 1 {
		t.Errorf("List: %v", err)
	}
	shift.Add(int64(3 * 3600e9))
	for want := range 2 {
		if n, err := s.Sweep(t.Context(), 10); err != nil || n != 1-want {
			t.Errorf("Sweep: %d, %v", n, err)
		}
	}
	if err := nc.LastError(); err != nil {
		t.Error(err)
	}
}

// Migrations that run at once, and again, leave one bucket and its records.
func TestMigrateTwice(t *testing.T) {
	o := &natsstore.Options{Bucket: freshBucket(), SweepEvery: -1}
	var wg sync.WaitGroup
	for range 8 {
		nc := connect(t, shared.DSN())
		wg.Go(func() {
			if err := natsstore.Migrate(context.Background(), nc, o); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s := opened(t, shared.DSN()+"/"+o.Bucket, o)
	req := request("k")
	complete(t, s, grant(t, s, req), completion(req, "r"))
	more := *o
	more.MaxBytes = 1 << 20
	if err := natsstore.Migrate(t.Context(), connect(t, shared.DSN()), &more); err != nil {
		t.Fatal(err)
	}
	stateOf(t, s, req.Key, driver.StateCompleted)
}

// Trap 51: what a client cannot read is said to be unknown, unless the operator
// has said it; one server is a warning, in the log too.
func TestTrap51WhatTheServerMayForget(t *testing.T) {
	o := &natsstore.Options{Bucket: freshBucket(), SweepEvery: -1}
	nc := connect(t, shared.DSN())
	if err := natsstore.Migrate(t.Context(), nc, o); err != nil {
		t.Fatal(err)
	}
	if f := finding(t, o, "sync_interval"); f.Severity != driver.SeverityUnknown {
		t.Errorf("%+v", f)
	}
	if f := finding(t, o, "replicas"); f.Severity != driver.SeverityWarning {
		t.Errorf("%+v", f)
	}
	var log bytes.Buffer
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	s, err := natsstore.New(t.Context(), nc, o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n := strings.Count(log.String(), "setting=replicas"); n != 1 {
		t.Errorf("it was logged %d times:\n%s", n, &log)
	}
	if i := s.Describe(); i.Durable || !i.Shared || i.Transactional || i.Name != "nats" {
		t.Errorf("%+v", i)
	}
	o.SyncAlways = true
	if f := finding(t, o, "sync_interval"); f.Severity != driver.SeverityOK {
		t.Errorf("%+v", f)
	}
	sure, err := natsstore.New(t.Context(), nc, o)
	if err != nil {
		t.Fatal(err)
	}
	defer sure.Close()
	if !sure.Describe().Durable {
		t.Error("with sync_interval always it is durable")
	}
}

func TestACluster(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	if c == nil {
		return
	}
	_, dsn := migrated(t, one(c.Server), "?replicas=3")
	o, err := natsstore.OptionsOf(dsn, nil)
	if err != nil {
		t.Fatal(err)
	}
	all, err := natsstore.Check(t.Context(), connect(t, dsn), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.Severity >= driver.SeverityWarning {
			t.Errorf("%+v", f)
		}
	}
	if s := opened(t, dsn, nil); !s.Describe().Durable {
		t.Error("with three replicas it is durable")
	}
	_, single := migrated(t, one(c.Server), "")
	if s := opened(t, single, nil); s.Describe().Durable {
		t.Error("with one replica it is not durable")
	}
}

// The limit on results is what the server takes, and what is asked for if that
// is less.
func TestTrap61TheServersLimit(t *testing.T) {
	b := newBed(t, natsstore.Options{SweepEvery: -1})
	limit := b.Describe().MaxResult
	if limit != 1<<20-20<<10 {
		t.Errorf("the limit is %d", limit)
	}
	name := strings.Repeat("\xff", driver.MaxName)
	req := request("k")
	req.Scope, req.ID = name, name
	ref := grant(t, b, req)
	c := completion(req, "")
	c.Result.Meta, c.Result.Body = make([]byte, limit/2), make([]byte, limit-limit/2)
	complete(t, b, ref, c)
	// The largest record there can be: with a note, under the longest names.
	other := request("other")
	other.Scope, other.ID = name, name
	wantErr(t, b.Abandon(t.Context(), grant(t, b, other)), nil, "Abandon")
	res := driver.Resolution{Action: driver.ResolveComplete, Result: c.Result, Retention: 1e15, Tombstone: 1e15, Note: strings.Repeat("n", 4096)}
	if _, err := b.Resolve(t.Context(), other.Key, res); err != nil {
		t.Error(err)
	}
	if rec := stateOf(t, b, other.Key, driver.StateCompleted); rec.Note != res.Note || rec.Result.Size() != limit {
		t.Errorf("note of %d bytes, result of %d", len(rec.Note), rec.Result.Size())
	}
	res.Note += "n"
	_, err := b.Resolve(t.Context(), other.Key, res)
	wantErr(t, err, driver.ErrInvalid, "Resolve with a long note")
}

func TestServerVersions(t *testing.T) {
	if server.VERSION < "2.11" {
		t.Errorf("tested with %s", server.VERSION)
	}
	for v, ok := range map[string]bool{
		"2.15.2": true, "2.11.0": true, "v2.11.0-preview": true, "3.0.0": true, "2.10.9": false, "1.99.0": false, "": false, "x.y": false, "2": false,
	} {
		if natsstore.Supported(v) != ok {
			t.Errorf("%q: %v", v, !ok)
		}
	}
}
