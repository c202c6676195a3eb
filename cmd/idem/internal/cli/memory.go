package cli

import (
	"os"
	"runtime/debug"
)

const (
	// gcPercent lets the heap grow to five times what is live before it is
	// collected: what is live is small, and would be collected all the time.
	gcPercent = 400
	// The memory past which that saving ends. The memory store's own bound is
	// within its limit, so that a full store is not collected without end.
	fileMemoryLimit   = 768 << 20
	memoryMemoryLimit = 3 << 30
)

// tuneGC trades memory for time, unless the operator has chosen (GOGC,
// GOMEMLIMIT).
func tuneGC(memoryStore bool) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		limit := int64(fileMemoryLimit)
		if memoryStore {
			limit = memoryMemoryLimit
		}
		debug.SetMemoryLimit(limit)
	}
}
