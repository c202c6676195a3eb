package mysqlstore_test

import (
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/mysqlstore"
)

// Trap 33: a client whose clock is ten minutes off the server's, either way,
// neither takes over early nor is late: the server's clock alone decides.
func TestTrap33ClocksApart(t *testing.T) {
	for _, offset := range []time.Duration{10 * time.Minute, -10 * time.Minute} {
		o := settings()
		o.ClockOffset = offset
		b := private(t, o)
		if b == nil {
			return
		}
		for _, with := range []mysqlstore.Options{{}, mysqlstore.Options{}.Plain()} {
			s := b.open(t, with)
			req := claimOf("s", "k")
			ref := grant(t, s, req)
			// The server is as far off as it was told to be, which the token shows.
			if at := time.UnixMicro(int64(ref.Token)); at.Sub(time.Now().Add(offset)).Abs() > time.Minute {
				t.Errorf("the server's clock is at %v", at)
			}
			rec := lookup(t, s, req.Key, driver.StateInFlight)
			if rec.Left > time.Minute || rec.Left < 30*time.Second || rec.Age > 30*time.Second {
				t.Errorf("with the clock off by %v: left %v, age %v", offset, rec.Left, rec.Age)
			}
			retry := claimOf("s", "k")
			retry.Retry = true
			if reply, err := s.Claim(t.Context(), retry); err != nil || reply.Granted {
				t.Errorf("an early take-over: %v, %v", reply.Granted, err)
			}
			short := claimOf("s", "short")
			short.Lease = 100 * time.Millisecond
			grant(t, s, short)
			eventually(t, "the end of the lease", func() bool {
				rec, err := s.Lookup(t.Context(), short.Key)
				return err == nil && rec.State == driver.StateUnknown
			})
			complete(t, s, ref, completionOf(req, "", "r"))
			if rec := lookup(t, s, req.Key, driver.StateCompleted); rec.Left > time.Hour || rec.Left < 59*time.Minute {
				t.Errorf("left %v", rec.Left)
			}
		}
	}
}

// A server whose clock is set back grants larger tokens still, and a lease that
// ran does not end before its time.
func TestTrap33TheServersClockIsSetBack(t *testing.T) {
	o := settings()
	o.MovableClock = true
	b := private(t, o)
	if b == nil {
		return
	}
	s := b.open(t, mysqlstore.Options{})
	first := grant(t, s, claimOf("s", "k"))
	if err := s.Release(t.Context(), first, driver.Release{Retention: time.Hour}); err != nil {
		t.Fatal(err)
	}
	req := claimOf("s", "running")
	running := grant(t, s, req)
	if err := b.server.SetClock(-10 * time.Minute); err != nil {
		t.Fatal(err)
	}
	second := grant(t, s, claimOf("s", "k"))
	if second.Token <= first.Token {
		t.Errorf("the token %d came after %d", second.Token, first.Token)
	}
	if rec := lookup(t, s, req.Key, driver.StateInFlight); rec.Left < 5*time.Minute || rec.Age < 0 {
		t.Errorf("left %v, age %v", rec.Left, rec.Age)
	}
	complete(t, s, running, completionOf(req, "", "r"))
	if err := b.server.SetClock(10 * time.Minute); err != nil {
		t.Fatal(err)
	}
	// By the server's clock the lease of a minute is over.
	lookup(t, s, driver.KeyOf("s", "k"), driver.StateUnknown)
}

// Connections whose time zones differ agree about every time, and so does one
// whose zone changes by an hour between two statements, as in the night when the
// summer ends.
func TestTimeZonesDoNotMatter(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	s := b.with(t, "time_zone='%2B12%3A00'").open(t, mysqlstore.Options{})
	others := []*one{b.with(t, "time_zone='-11%3A30'").reopen(t, s.opts), b.with(t, "time_zone='SYSTEM'&parseTime=true").reopen(t, s.opts)}
	req := claimOf("s", "k")
	ref := grant(t, s, req)
	for _, other := range others {
		if rec := lookup(t, other, req.Key, driver.StateInFlight); rec.Left > time.Minute || rec.Left < 30*time.Second || rec.Age > 30*time.Second {
			t.Errorf("left %v, age %v", rec.Left, rec.Age)
		}
		if err := other.Renew(t.Context(), ref, time.Minute); err != nil {
			t.Error(err)
		}
	}
	complete(t, others[0], ref, completionOf(req, "", "r"))
	if rec := lookup(t, s, req.Key, driver.StateCompleted); rec.Left > time.Hour || rec.Left < 59*time.Minute {
		t.Errorf("left %v", rec.Left)
	}

	changing := b.with(t, "max-conns=1&time_zone='%2B02%3A00'")
	one := changing.reopen(t, s.opts)
	req = claimOf("s", "summer")
	ref = grant(t, one, req)
	changing.exec(t, "SET time_zone = '+01:00'")
	if rec := lookup(t, one, req.Key, driver.StateInFlight); rec.Left > time.Minute || rec.Left < 30*time.Second || rec.Age > 30*time.Second {
		t.Errorf("left %v, age %v", rec.Left, rec.Age)
	}
	if err := one.Release(t.Context(), ref, driver.Release{Retention: time.Hour}); err != nil {
		t.Error(err)
	}
	changing.exec(t, "SET time_zone = '+03:00'")
	if again := grant(t, one, claimOf("s", "summer")); again.Token <= ref.Token || again.Token > ref.Token+60_000_000 {
		t.Errorf("the token %d came after %d", again.Token, ref.Token)
	}
}
