package sqlitestore_test

import "golang.org/x/sys/unix"

// mountSmall makes a folder a disk of a few MiB.
func mountSmall(dir string) error { return unix.Mount("tmpfs", dir, "tmpfs", 0, "size=6m") }

func unmount(dir string) error { return unix.Unmount(dir, unix.MNT_DETACH) }
