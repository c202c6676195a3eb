package idemhttp_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/idem-go/idem/idemhttp"
)

// Trap 23: "k" and k are one key, and a bad key is refused.
func TestTrap23QuotedAndBareAreOneKey(t *testing.T) {
	for value, want := range map[string]string{
		`"8e03978e-40d5-43e8-bc93-6894a57f9324"`: "8e03978e-40d5-43e8-bc93-6894a57f9324",
		`8e03978e-40d5-43e8-bc93-6894a57f9324`:   "8e03978e-40d5-43e8-bc93-6894a57f9324",
		"\t k ":                                  "k",
		"  \"k\"\t":                              "k",
		`"a b, c;d"`:                             "a b, c;d",
		`"a \"b\" \\c"`:                          `a "b" \c`,
		`" k "`:                                  " k ",
		`a:b/c=d'e`:                              `a:b/c=d'e`,
		strings.Repeat("x", 255):                 strings.Repeat("x", 255),
		`"` + strings.Repeat(`\"`, 255) + `"`:    strings.Repeat(`"`, 255),
	} {
		got, err := idemhttp.ParseKey(value)
		if err != nil || got != want {
			t.Errorf("ParseKey(%q) = %q, %v; want %q", value, got, err, want)
		}
	}
}

func TestTrap23BadKeysAreRefused(t *testing.T) {
	for _, value := range []string{
		"", " ", " \t ", `""`, `"   "`,
		`"k`, `k"`, `"`, `"\`, `"k\"`, `"k\n"`, `"k"x`, `"k";v=1`, `"k" ;v=1`, `"a", "b"`, `"a" "b"`,
		"a b", "a,b", "a;b", `a\b`, `a"b`, "a\tb",
		"é", `"é"`, "\x7f", "\"\x7f\"", "\"\t\"", "a\x00b", "\"a\x00b\"", "k\n",
		strings.Repeat("x", 256), `"` + strings.Repeat("x", 256) + `"`,
	} {
		id, err := idemhttp.ParseKey(value)
		var keyErr *idemhttp.KeyError
		if !errors.As(err, &keyErr) || id != "" {
			t.Errorf("ParseKey(%q) = %q, %v; want a KeyError", value, id, err)
			continue
		}
		if d := keyErr.Detail(); !strings.HasSuffix(d, ".") || !strings.HasPrefix(d, "The ") || !strings.HasPrefix(err.Error(), "idemhttp: the key ") {
			t.Errorf("ParseKey(%q): the sentence is %q, the error %q", value, d, err)
		}
	}
}

// An error says what to do and nothing of the key, which may be a secret.
func TestKeyErrorsHideTheKey(t *testing.T) {
	for _, value := range []string{"s3cr3t key", `"s3cr3t`, "s3cr3t\x01", `"s3cr3t";x`} {
		if _, err := idemhttp.ParseKey(value); err == nil || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("ParseKey(%q): %v", value, err)
		}
	}
}

// Trap 22: keys are taken byte for byte; nothing is folded or trimmed.
func TestTrap22KeysByteForByte(t *testing.T) {
	seen := map[string]string{}
	for _, value := range []string{"abc", "ABC", `"abc "`, `" abc"`, "abc.", "%61bc", `"a\\bc"`} {
		id, err := idemhttp.ParseKey(value)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[id]; ok {
			t.Errorf("%q and %q are one key", value, other)
		}
		seen[id] = value
	}
}

func TestParseKeyDoesNotAllocate(t *testing.T) {
	for _, value := range []string{`"8e03978e-40d5-43e8-bc93-6894a57f9324"`, "8e03978e-40d5-43e8-bc93-6894a57f9324"} {
		if n := testing.AllocsPerRun(100, func() { _, _ = idemhttp.ParseKey(value) }); n != 0 {
			t.Errorf("ParseKey(%s) allocates %v times", value, n)
		}
	}
}

func TestKeyTime(t *testing.T) {
	for id, want := range map[string]int64{
		"017F22E2-79B0-7CC3-98C4-DC0C0C07398F":     1645557742000, // RFC 9562, A.6
		"017f22e2-79b0-7cc3-98c4-dc0c0c07398f":     1645557742000,
		"01ARZ3NDEKTSV4RRFFQ69G5FAV":               1469922850259, // the ULID specification's example
		"01arz3ndektsv4rrffq69g5fav":               1469922850259,
		"7ZZZZZZZZZZZZZZZZZZZZZZZZZ":               1<<48 - 1,
		"body§01ARZ3NDEKTSV4RRFFQ69G5FAV":          1469922850259,
		"webhook§01ARZ3NDEKTSV4RRFFQ69G5FAV":       1469922850259,
		"event§5:a§b§c§01ARZ3NDEKTSV4RRFFQ69G5FAV": -1, // the length is that of "a§b"
		"event§7:a§b§c§01ARZ3NDEKTSV4RRFFQ69G5FAV": 1469922850259,
		"919108f7-52d1-4320-9bac-f847db4148a8":     -1, // version 4
		"017f22e2-79b0-7cc3-18c4-dc0c0c07398f":     -1, // another variant
		"017f22e279b07cc398c4dc0c0c07398f":         -1,
		"017f22e2-79b0-7cc3-98c4-dc0c0c07398g":     -1,
		"017f22e2x79b0-7cc3-98c4-dc0c0c07398f":     -1,
		"81ARZ3NDEKTSV4RRFFQ69G5FAV":               -1, // more than 128 bits
		"01ARZ3NDEKTSV4RRFFQ69G5FAU":               -1, // U is no digit
		"k":                                        -1,
		"":                                         -1,
	} {
		at, ok := idemhttp.KeyTime(id)
		if ok != (want >= 0) || ok && at.UnixMilli() != want {
			t.Errorf("KeyTime(%q) = %v, %v; want %d", id, at.UnixMilli(), ok, want)
		}
	}
}

func FuzzKeyHeader(f *testing.F) {
	for _, s := range []string{`"k"`, "k", `"a\"b"`, "a b", `"k";v=1`, " \t", `"`, `\`, "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		id, err := idemhttp.ParseKey(value)
		if err != nil {
			return
		}
		if len(id) < 1 || len(id) > idemhttp.MaxKey || strings.Trim(id, " ") == "" {
			t.Fatalf("%q gave the key %q", value, id)
		}
		for i := range len(id) {
			if id[i] < 0x20 || id[i] > 0x7e {
				t.Fatalf("%q gave the key %q", value, id)
			}
		}
		quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(id) + `"`
		if again, err := idemhttp.ParseKey(quoted); err != nil || again != id {
			t.Fatalf("%q and its quoted form %q: %q, %v", value, quoted, again, err)
		}
	})
}
