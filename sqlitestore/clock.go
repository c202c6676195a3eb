package sqlitestore

import (
	"fmt"
	"math"
	"time"

	"github.com/idem-go/idem/driver"
)

// ticks is a clock that only runs forward, at the pace of time, and that nobody
// can set. What its reading means is known only together with its id: two
// processes whose clocks have one id read the same number at the same instant.
//
// The host's wall clock is no such clock: it is set, by a person or by NTP, and
// a lease that was judged by it would end when it is. On Linux the clock is the
// time since the host was started, sleep included, with the host's boot id and
// the process's time namespace for its id: all processes of a host read the same
// one. Elsewhere, and where that id cannot be read, the clock is the process's
// own.
type ticks struct {
	id  string
	now func() int64
}

// sources are the clocks of a process.
type sources struct {
	ticks ticks
	wall  func() int64
}

func processClocks() *sources {
	return &sources{ticks: hostTicks(), wall: func() int64 { return time.Now().UnixNano() }}
}

// ownTicks is a clock of this process alone.
func ownTicks() ticks {
	start := time.Now()
	return ticks{
		id:  fmt.Sprintf("process:%x", driver.NewNonce()),
		now: func() int64 { return int64(time.Since(start)) },
	}
}

// The store's time, in nanoseconds, is base + ticks, where base is kept in the
// database beside the id of the clock that it belongs to.
//
// When a process finds the id of another clock there, the host was restarted, or
// the file was brought to another host: the ticks of the two have nothing to do
// with each other, and nothing in the file tells how long ago it was written. Two
// things are made of that, in the transaction that writes the new base:
//
//   - The store's time goes on from the last time that was written, by as much as
//     the wall clock has gone on since it was written beside it, and not at all if
//     it has gone back. Retentions and tombstones go by that. A wall clock that was
//     wrongly set forward meanwhile ends them too early; nothing else does.
//   - Every lease that had not ended by the last time written begins anew, with its
//     whole length: it ends after a wait that was observed by this clock. So a wall
//     clock that jumps ends no lease early, and neither does an owner on another host
//     that is still running lose its lease before its time.
//
// Processes whose clocks are of different ids, which use one file in turn,
// therefore prolong each other's leases: that is safe, and a lease then ends once
// only one of them has written for as long.

// maxTime is later than every time.
const maxTime = math.MaxInt64

// restarted is the store's time at the first write by a new clock.
func restarted(then, wall, wallNow int64) int64 { return then + max(int64(leeway), wallNow-wall) }

// after is an instant d after now, or the last there is.
func after(now int64, d time.Duration) int64 {
	if t := now + int64(d); t >= now {
		return t
	}
	return maxTime
}
