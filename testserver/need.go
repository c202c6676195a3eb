package testserver

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

// Need reports whether a test has the server that it needs; err is what starting
// it gave. Without it the test logs "NOT TESTED: <name>: <why>", and should
// return; where IDEM_TEST_REQUIRE, a list with commas, has the name or "all", the
// test fails. "all" does not mean mysql8, which is never installed. An error other
// than ErrMissing and ErrExternal fails the test at once.
//
// The names are postgres, mariadb, mysql8, redis, nats, faketime and pgbouncer.
func Need(t testing.TB, name string, err error) bool {
	t.Helper()
	if err == nil {
		return true
	}
	if !errors.Is(err, ErrMissing) && !errors.Is(err, ErrExternal) {
		t.Fatalf("%s: %v", name, err)
	}
	t.Logf("NOT TESTED: %s: %v", name, err)
	if required(os.Getenv("IDEM_TEST_REQUIRE"), name) {
		t.Errorf("IDEM_TEST_REQUIRE asks for %s", name)
	}
	return false
}

func required(list, name string) bool {
	names := strings.Split(list, ",")
	return slices.Contains(names, name) || name != "mysql8" && slices.Contains(names, "all")
}
