package drivertest

import (
	"fmt"
	"strings"

	"github.com/idem-go/idem/driver"
)

func keyRules() []rule {
	return []rule{
		// Names that a store which knows better takes for one.
		{"Trap22ByteForByte", func(e *env) {
			e.apart([][2]string{
				{"s", "ABC"}, {"s", "abc"}, {"s", "Abc"},
				{"s", "abc "}, {"s", " abc"}, {"s", "abc\t"}, {"s", "abc\n"},
				{"S", "abc"}, {"s ", "abc"},
				{"s", "\u00e9"}, {"s", "e\u0301"}, {"s", "e"},
				{"s", "\u00df"}, {"s", "ss"}, {"s", "SS"},
				{"s", "\u212a"}, {"s", "K"}, {"s", "k"},
				{"s", "\u0130"}, {"s", "i"}, {"s", "I"}, {"s", "\u0131"},
				{"s", "\uff21"}, {"s", "A"},
				{"s", "1"}, {"s", "01"}, {"s", "1.0"},
				{"s", "%"}, {"s", "_"}, {"s", "*"}, {"s", "\\"}, {"s", "'"},
			})
		}},
		{"Trap24PartsNeverMeet", func(e *env) {
			e.apart([][2]string{
				{"a:b", "c"}, {"a", "b:c"}, {"a/b", "c"}, {"a", "b/c"},
				{"", "abc"}, {"abc", ""}, {"ab", "c"}, {"a", "bc"}, {"", ""},
				{"a\x00b", "c"}, {"a", "b\x00c"}, {"a\x00", "b"}, {"a", "\x00b"},
			})
		}},
		{"Trap61AnyBytes", func(e *env) {
			e.apart([][2]string{
				{"s", "a\x00b"}, {"s", "a\x00c"}, {"s", "a"}, {"s", "a\x00"}, {"s", "\x00"}, {"s", ""},
				{"s\x00", "a"}, {"s\x00x", "a"}, {"\x00", "\x00"}, {"\x00\x00", ""},
				{"s", "\xff"}, {"s", "\xff\xff"}, {"\xff", "s"}, {"\xff\xfe", "s"},
				{"s", "\xc3\x28"}, {"s", "\xed\xa0\x80"}, {"s", "\ufffd"},
			})
		}},
		{"TheLongestNames", func(e *env) {
			long := strings.Repeat("x", driver.MaxName)
			e.apart([][2]string{{long, long}, {long, long[1:]}, {long[1:], long}})
		}},
		// The key decides, whatever its bytes: a store that treats keys as text,
		// or as C strings, or compares a part of them, takes some of these for one.
		{"TheWholeKeyDecides", func(e *env) {
			base := driver.Key{0: 'k', 1: 0, 31: 'k'}
			keys := []driver.Key{base, {}, {31: 1}, {0: 1}, {15: 1}, {16: 1}}
			for i := range base {
				for _, b := range []byte{'A', 'a', 0xff, ' ', '%'} {
					k := base
					k[i] = b
					keys = append(keys, k)
				}
			}
			for i, k := range keys {
				req := request(fmt.Sprint(i))
				req.Key = k
				e.complete(e.grant(req), completion(req, "", req.ID))
			}
			for i, k := range keys {
				result(e, e.state(k, driver.StateCompleted), "", fmt.Sprint(i))
			}
		}},
	}
}

// apart completes a claim under each name, each of which must be granted, and
// reads every result back.
func (e *env) apart(names [][2]string) {
	e.Helper()
	for i, n := range names {
		req := request("")
		req.Scope, req.ID, req.Key = n[0], n[1], driver.KeyOf(n[0], n[1])
		reply := e.claim(req)
		if !reply.Granted {
			e.Fatalf("the key %q was not granted, another was taken for it: %q", n, [2]string{reply.Record.Scope, reply.Record.ID})
		}
		rec := e.state(req.Key, driver.StateInFlight)
		if rec.Scope != n[0] || rec.ID != n[1] {
			e.Fatalf("the record of %q is named %q, %q", n, rec.Scope, rec.ID)
		}
		ref := driver.Ref{Key: req.Key, Token: reply.Record.Token}
		e.complete(ref, completion(req, "", fmt.Sprint(i)))
	}
	for i, n := range names {
		rec := e.state(driver.KeyOf(n[0], n[1]), driver.StateCompleted)
		result(e, rec, "", fmt.Sprint(i))
		if rec.Scope != n[0] || rec.ID != n[1] {
			e.Fatalf("the record of %q is named %q, %q", n, rec.Scope, rec.ID)
		}
	}
}
