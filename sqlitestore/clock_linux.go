package sqlitestore

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

func hostTicks() ticks {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	id := strings.TrimSpace(string(boot))
	if err != nil || id == "" || bootTime() == 0 {
		return ownTicks()
	}
	// In a time namespace the clock has an offset. A kernel without them has no
	// such link, and no offset.
	space, err := os.Readlink("/proc/self/ns/time")
	if err != nil {
		space = ""
	}
	return ticks{id: "boot:" + id + " " + space, now: bootTime}
}

// bootTime is the time since the host was started, 0 where it cannot be read.
func bootTime() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return t.Nano()
}
