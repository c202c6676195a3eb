//go:build unix && !linux

package sqlitestore_test

import "errors"

func mountSmall(string) error { return errors.New("only Linux does") }

func unmount(string) error { return nil }
