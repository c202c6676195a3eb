package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/redisstore"
	"github.com/idem-go/idem/testserver"
)

func sentinels(t *testing.T) *testserver.SentinelSet {
	t.Helper()
	set, err := testserver.RedisSentinel(nil)
	if !testserver.Need(t, "redis-sentinel", err) {
		return nil
	}
	t.Cleanup(func() {
		if err := set.Stop(); err != nil {
			t.Error(err)
		}
	})
	return set
}

// A failover: with WaitReplicas what was acknowledged is on the replica that
// takes over; the claims go on there, and the store finds it by its sentinels.
func TestSentinelFailover(t *testing.T) {
	set := sentinels(t)
	if set == nil {
		return
	}
	client := connect(t, set.DSN())
	if client.Mode() != rueidis.ClientModeSentinel {
		t.Fatalf("the client is for a %s", client.Mode())
	}
	o := small()
	o.WaitReplicas, o.WaitTimeout = 1, 5*time.Second
	s := newBed(t, client, o)
	all := severities(t, s)
	wantSeverity(t, all, "failover", driver.SeverityWarning)
	if s.Describe().Durable {
		t.Error("a store whose failover can forget says that it is durable")
	}
	refs := map[string]driver.Ref{}
	for i := range 40 {
		id := fmt.Sprint(i)
		refs[id] = grant(t, s, request(id))
		if i%2 == 0 {
			complete(t, s, refs[id], completion(request(id), id))
		}
	}
	ended := waiting(t, s, refs["1"])
	_, err := set.KillMaster()
	must(t, err)
	// There is no replica now, so nothing is acknowledged by a store that wants one.
	after := s.opts
	after.WaitReplicas = 0
	alone := openBed(t, client, after)
	for id, ref := range refs {
		rec, err := alone.Lookup(t.Context(), ref.Key)
		must(t, err)
		if rec.Token != ref.Token || rec.State == driver.StateCompleted && string(rec.Result.Body) != id {
			t.Errorf("%s is %v with token %d; the token was %d", id, rec.State, rec.Token, ref.Token)
		}
	}
	_, err = s.Claim(t.Context(), request("new"))
	if err == nil || !strings.Contains(err.Error(), "WaitReplicas") {
		t.Errorf("a claim without a replica: %v", err)
	}
	must(t, alone.Renew(t.Context(), refs["1"], time.Hour))
	complete(t, alone, refs["1"], completion(request("1"), "1"))
	within(t, 20*time.Second, ended, "an end after the failover")
}

// pair is a master and a replica of it, without sentinels.
func pair(t *testing.T) (master, replica *testserver.Server) {
	t.Helper()
	master = own(t, nil)
	if master == nil {
		return nil, nil
	}
	replica = own(t, map[string]string{"replicaof": strings.Replace(master.Addr(), ":", " ", 1)})
	if replica == nil {
		return nil, nil
	}
	c := connect(t, master.DSN())
	eventually(t, 30*time.Second, func() error {
		info, err := do(t, c, "INFO", "replication").ToString()
		must(t, err)
		if !strings.Contains(info, "state=online") {
			return errors.New("the replica is not there yet")
		}
		return nil
	})
	return master, replica
}

// What a failover to a replica that was behind forgets: this is what the
// documentation says, not what anybody would want.
func TestAPromotedReplicaForgets(t *testing.T) {
	master, replica := pair(t)
	if master == nil {
		return
	}
	s := newBed(t, connect(t, master.DSN()), small())
	wantSeverity(t, severities(t, s), "connected_slaves", driver.SeverityWarning)
	before := request("before")
	complete(t, s, grant(t, s, before), completion(before, "r"))
	eventually(t, 10*time.Second, func() error {
		if n, err := do(t, s.client, "WAIT", "1", "1000").ToInt64(); err != nil || n != 1 {
			return fmt.Errorf("%d replicas, %w", n, err)
		}
		return nil
	})
	other := connect(t, replica.DSN()+"?cluster=false")
	if _, err := redisstore.New(t.Context(), other, &s.opts); err == nil || !strings.Contains(err.Error(), "replica") {
		t.Errorf("New on a replica: %v", err)
	}
	// The link breaks, the master goes on, and the replica takes its place.
	do(t, other, "REPLICAOF", "NO", "ONE")
	after := request("after")
	ref := grant(t, s, after)
	complete(t, s, ref, completion(after, "done"))
	promoted := openBed(t, other, s.opts)
	state(t, promoted, before.Key, driver.StateCompleted)
	again := grant(t, promoted, request("after"))
	if again.Token <= ref.Token {
		t.Errorf("the token %d came after %d, which a fenced resource must be able to tell", again.Token, ref.Token)
	}
}

// With WaitReplicas a claim that no replica has is not acknowledged.
func TestWaitForReplicas(t *testing.T) {
	master, replica := pair(t)
	if master == nil {
		return
	}
	o := small()
	o.WaitReplicas, o.WaitTimeout = 1, 300*time.Millisecond
	s := newBed(t, connect(t, master.DSN()), o)
	req := request("k")
	ref := grant(t, s, req)
	c := connect(t, replica.DSN()+"?cluster=false")
	if n, err := do(t, c, "EXISTS", recordKey(s, req.Key)).ToInt64(); err != nil || n != 1 {
		t.Error("a claim that was acknowledged is not on the replica")
	}
	do(t, s.client, "SCRIPT", "FLUSH")
	complete(t, s, ref, completion(req, "r"))

	must(t, replica.Pause())
	behind := request("behind")
	_, err := s.Claim(t.Context(), behind)
	if err == nil || !strings.Contains(err.Error(), "WaitReplicas") {
		t.Errorf("a claim that no replica has: %v", err)
	}
	// The repeat writes nothing, and must not be acknowledged for that.
	if _, err := s.Complete(t.Context(), ref, completion(req, "r")); err == nil {
		t.Error("a repeat was acknowledged while the replica is behind")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = s.Claim(ctx, request("short"))
	wantErr(t, err, context.DeadlineExceeded, "Claim")
	must(t, replica.Resume())
	eventually(t, 20*time.Second, func() error {
		reply, err := s.Claim(t.Context(), behind)
		if err == nil && !reply.Granted {
			t.Error("the repeat was not granted")
		}
		return err
	})
	must(t, replica.Kill())
	eventually(t, 20*time.Second, func() error {
		info, err := do(t, s.client, "INFO", "replication").ToString()
		must(t, err)
		if !strings.Contains(info, "connected_slaves:0") {
			return errors.New("the master still counts its replica")
		}
		return nil
	})
	if _, err := redisstore.New(t.Context(), s.client, &s.opts); err == nil || !strings.Contains(err.Error(), "WaitReplicas") {
		t.Errorf("New without replicas: %v", err)
	}
}
