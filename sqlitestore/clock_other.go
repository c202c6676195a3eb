//go:build !linux

package sqlitestore

func hostTicks() ticks { return ownTicks() }
