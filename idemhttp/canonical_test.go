package idemhttp

import (
	"bytes"
	"encoding/json"
	"math"
	"math/big"
	"reflect"
	"strings"
	"testing"
)

// Appendix B of RFC 8785: doubles by their bits, and how they are written.
func TestNumbersOfRFC8785(t *testing.T) {
	for bits, want := range map[uint64]string{
		0x0000000000000000: "0",
		0x8000000000000000: "0",
		0x0000000000000001: "5e-324",
		0x8000000000000001: "-5e-324",
		0x7fefffffffffffff: "1.7976931348623157e+308",
		0xffefffffffffffff: "-1.7976931348623157e+308",
		0x4340000000000000: "9007199254740992",
		0xc340000000000000: "-9007199254740992",
		0x4430000000000000: "295147905179352830000",
		0x44b52d02c7e14af5: "9.999999999999997e+22",
		0x44b52d02c7e14af6: "1e+23",
		0x44b52d02c7e14af7: "1.0000000000000001e+23",
		0x444b1ae4d6e2ef4e: "999999999999999700000",
		0x444b1ae4d6e2ef4f: "999999999999999900000",
		0x444b1ae4d6e2ef50: "1e+21",
		0x3eb0c6f7a0b5ed8c: "9.999999999999997e-7",
		0x3eb0c6f7a0b5ed8d: "0.000001",
		0x41b3de4355555553: "333333333.3333332",
		0x41b3de4355555554: "333333333.33333325",
		0x41b3de4355555555: "333333333.3333333",
		0x41b3de4355555556: "333333333.3333334",
		0x41b3de4355555557: "333333333.33333343",
		0xbecbf647612f3696: "-0.0000033333333333333333",
		0x43143ff3c1cb0959: "1424953923781206.2",
	} {
		if got := string(appendNumber(nil, math.Float64frombits(bits))); got != want {
			t.Errorf("%016x is written %s, want %s", bits, got, want)
		}
	}
}

// Sections 3.2.2 and 3.2.3 of RFC 8785.
func TestExamplesOfRFC8785(t *testing.T) {
	c := canonical{src: []byte(`{
		"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
		"string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
		"literals": [null, true, false]
	}`)}
	const want = `{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}`
	if !c.value(0) || string(c.dst) != want {
		t.Errorf("the example became %s", c.dst)
	}
	if !c.inexact {
		t.Error("333333333.33333329 is no double, and it was not noticed")
	}

	got, ok := canonicalJSON(nil, []byte(`{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}`))
	order := []string{"Carriage Return", "One", "Control", "Latin Small", "Euro", "Emoji", "Hebrew"}
	for i := 1; i < len(order); i++ {
		if !ok || strings.Index(string(got), order[i-1]) > strings.Index(string(got), order[i]) {
			t.Errorf("%s does not come before %s in %s", order[i-1], order[i], got)
		}
	}
}

func TestCanonicalForm(t *testing.T) {
	for src, want := range map[string]string{
		` { } `:                       `{}`,
		"[\n]":                        `[]`,
		`[ 1 , [ ] , { "a" : [ ] } ]`: `[1,[],{"a":[]}]`,
		`{"b":1,"a":2}`:               `{"a":2,"b":1}`,
		`{"b":{"d":1,"c":[{"z":1,"y":2}]},"a":2,"":3}`: `{"":3,"a":2,"b":{"c":[{"y":2,"z":1}],"d":1}}`,
		`"\u0041\/\b\f\n\r\t\u001F\u007f"`:             "\"A/\\b\\f\\n\\r\\t\\u001f\x7f\"",
		`"\ud83d\ude00\u2028<"`:                        "\"😀\u2028<\"",
		`{"\u0061":"a\"b"}`:                            `{"a":"a\"b"}`,
		`-0`:                                           `0`,
		`1.0`:                                          `1`,
		`-1.50e1`:                                      `-15`,
		`100e-2`:                                       `1`,
		`1e2`:                                          `100`,
		`0.10`:                                         `0.1`,
		`0e999999999999999999999`:                      `0`,
		`9007199254740991`:                             `9007199254740991`,
		`12345678901234567000`:                         `12345678901234567000`,
		`0.` + strings.Repeat("0", 400) + `1e400`: `0.1`,
		`1` + strings.Repeat("0", 400) + `E-400`:  `1`,
		`true`:                                    `true`,
	} {
		got, ok := canonicalJSON([]byte("x"), []byte(src))
		if !ok || string(got) != "x"+want {
			t.Errorf("%.80s became %s, %v; want %s", src, got, ok, want)
		}
	}
}

// Trap 20: what the canonical form would make one of is left to its bytes.
func TestTrap20CanonicalFormRefuses(t *testing.T) {
	for _, src := range []string{
		``, `{`, `{}{}`, `{"a":1,}`, `nul`, "\ufeff{}",
		`{"a":1,"a":1}`, `{"a":1,"b":2,"\u0061":3}`, `[{"x":{"a":1,"a":2}}]`,
		"\"\xff\"", "\"\xed\xa0\x80\"", "{\"\xc3\":1}",
		`"\ud800"`, `"\udc00"`, `"\ud800\ud800"`, `"\ud800x"`, `"\ud800\u0041"`, `"\udc00\ud800"`, `{"\ud800":1}`,
		`9007199254740993`, `9007199254740993.0`, `900719925474099.3e1`, `-9007199254740993`,
		`0.1000000000000000055`, `12345678901234567890`, `123456789012345678901234567890`,
		`1e400`, `-1e400`, `1e-400`, `1e99999999999999999999`, `1e-99999999999999999999`,
		`[1,{"a":[9007199254740993]}]`,
		strings.Repeat("[", 129) + strings.Repeat("]", 129),
		strings.Repeat(`{"a":`, 129) + "1" + strings.Repeat("}", 129),
	} {
		if got, ok := canonicalJSON(nil, []byte(src)); ok {
			t.Errorf("%.80q became %s", src, got)
		}
	}
	deep := strings.Repeat("[", 128) + strings.Repeat("]", 128)
	if got, ok := canonicalJSON(nil, []byte(deep)); !ok || string(got) != deep {
		t.Error("what is nested 128 deep has a canonical form")
	}
}

func FuzzCanonicalJSON(f *testing.F) {
	for _, s := range []string{
		`{"b":[1,2.50,-0,1e30],"a":{"\u00e9":"\ud83d\ude00","":null}}`, `"\u0000\u2028"`, `[true,false]`,
		`{"\ufb33":1,"\ud83d\ude00":2}`, `9007199254740993`, `{"a":1,"a":2}`, `0.1e-6`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		once, ok := canonicalJSON(nil, src)
		if !ok {
			return
		}
		if twice, ok := canonicalJSON(nil, once); !ok || !bytes.Equal(once, twice) {
			t.Fatalf("%q became %q and that %q, %v", src, once, twice, ok)
		}
		if !sameValue(decodeJSON(t, src), decodeJSON(t, once)) {
			t.Fatalf("%q became another value, %q", src, once)
		}
		// The same value written by somebody else, who sorts, escapes and
		// spaces it otherwise.
		var v any
		if err := json.Unmarshal(once, &v); err != nil {
			t.Fatal(err)
		}
		other, err := json.MarshalIndent(v, " ", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if again, ok := canonicalJSON(nil, other); !ok || !bytes.Equal(once, again) {
			t.Fatalf("%q is written %q here and %q there, %v", src, once, again, ok)
		}
	})
}

func decodeJSON(t *testing.T, b []byte) any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%q: %v", b, err)
	}
	return v
}

// sameValue compares numbers to the last digit.
func sameValue(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for k := range a {
			if v, ok := b[k]; !ok || !sameValue(a[k], v) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !sameValue(a[i], b[i]) {
				return false
			}
		}
		return true
	case json.Number:
		b, ok := b.(json.Number)
		if i := strings.IndexAny(a.String(), "eE"); !ok || i >= 0 && len(a)-i > 5 {
			return ok // too large an exponent to write its digits out
		}
		x, _ := new(big.Rat).SetString(a.String())
		y, _ := new(big.Rat).SetString(b.String())
		return x.Cmp(y) == 0
	}
	return reflect.DeepEqual(a, b)
}
