package sqlitestore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"time"
)

// ErrStopped says that a sync of the database file failed: what was written
// since the last good one may be gone, though a second sync succeeds. The store
// answers nothing more until it is opened again, in a new process.
var ErrStopped = errors.New("sqlitestore: stopped after a sync of the file failed")

// The result codes of SQLite that the store tells apart.
const (
	codeBusy     = 5
	codeLocked   = 6
	codeReadonly = 8
	codeIOErr    = 10
	codeCorrupt  = 11
	codeFull     = 13
	codeCantOpen = 14
	codeSchema   = 17
	codeNotADB   = 26

	codeIOErrFsync    = codeIOErr | 4<<8
	codeIOErrDirFsync = codeIOErr | 5<<8
	codeIOErrBlocked  = codeIOErr | 11<<8
)

// code is SQLite's result code of an error, the extended one where the driver
// gives it; 0 for an error that has none. Each driver has a type of its own for
// its errors, so they are known by their shape: a method or a field that gives the
// number.
func code(err error) int {
	for err != nil {
		if c := codeOf(err); c != 0 {
			return c
		}
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range many.Unwrap() {
				if c := code(e); c != 0 {
					return c
				}
			}
			return 0
		}
		err = errors.Unwrap(err)
	}
	return 0
}

func codeOf(err error) int {
	v := reflect.ValueOf(err)
	t := v.Type()
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if !strings.Contains(t.PkgPath(), "sqlite") {
		return 0
	}
	if t.Name() == "ExtendedErrorCode" {
		return number(v)
	}
	// ncruces has both methods, modernc the second, mattn fields.
	if m := v.MethodByName("ExtendedCode"); m.IsValid() {
		return result(m)
	}
	if m := v.MethodByName("Code"); m.IsValid() {
		return result(m)
	}
	if v = reflect.Indirect(v); v.Kind() == reflect.Struct {
		for _, name := range []string{"ExtendedCode", "Code"} {
			if f := v.FieldByName(name); f.IsValid() && number(f) != 0 {
				return number(f)
			}
		}
	}
	return 0
}

func result(method reflect.Value) int {
	if t := method.Type(); t.NumIn() != 0 || t.NumOut() != 1 {
		return 0
	}
	return number(method.Call(nil)[0])
}

func number(v reflect.Value) int {
	switch {
	case v.CanInt():
		return int(v.Int())
	case v.CanUint():
		return int(v.Uint())
	}
	return 0
}

func primary(err error) int { return code(err) & 0xff }

// isBusy says that another holds the database, and that the same is worth being
// tried again.
func isBusy(err error) bool {
	c := code(err)
	return c&0xff == codeBusy || c&0xff == codeLocked || c == codeIOErrBlocked
}

// isSync says that a sync failed.
func isSync(err error) bool {
	c := code(err)
	return c == codeIOErrFsync || c == codeIOErrDirFsync
}

// explain gives an error of the database's the package's name, and what is to be
// done where that is known.
func explain(err error) error {
	if err == nil {
		return nil
	}
	hint := ""
	switch primary(err) {
	case codeReadonly:
		hint = "; the file, its folder or the connection does not allow writing"
	case codeFull:
		hint = "; make room on the disk, or raise max_page_count"
	case codeIOErr:
		// Some drivers say this of a full disk, too.
		hint = "; see whether the disk is full, and what the system's log says of it"
	case codeCorrupt, codeNotADB:
		hint = "; restore the file from a backup, PRAGMA integrity_check says more"
	case codeCantOpen:
		hint = "; the file or its folder is missing, or may not be opened"
	}
	return fmt.Errorf("sqlitestore: %w%s", err, hint)
}

// pause waits a little before something is tried again; longer at each try, and
// never the same for two who try.
func pause(ctx context.Context, try int) error {
	longest := time.Millisecond << min(try, 5)
	t := time.NewTimer(longest/2 + rand.N(longest))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
