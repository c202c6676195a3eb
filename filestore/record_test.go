package filestore

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
)

var update = flag.Bool("update", false, "write the golden files anew")

// goldenRecords are one record for each kind, and the largest values.
func goldenRecords() map[string]record {
	fp := driver.Fingerprint{Rule: 3, Sum: driver.KeyOf("golden", "fingerprint")}
	nonce := driver.Nonce{1, 2, 3, 15: 16}
	return map[string]record{
		"in-flight": {
			kind: inFlight, attempt: 1, token: 1<<33 + 1, since: 1767323045_000000001, due: 1767323105_000000001,
			tombstone: 720 * time.Hour, nonce: nonce, fingerprint: fp, scope: "host/tenant", id: "8e03978e",
		},
		"lapsed": {
			kind: lapsed, attempt: 2, token: 7, since: 1, due: 2, tombstone: 1, nonce: nonce, scope: "", id: "\x00\xff",
		},
		"abandoned": {kind: abandoned, attempt: 300, token: 300, since: 5, due: 6, tombstone: time.Hour, nonce: nonce, fingerprint: fp, scope: "s"},
		"completed": {
			kind: completed, late: true, attempt: 1, token: 9, since: 10, due: 11, tombstone: 12, fingerprint: fp,
			scope: "s", id: "i", note: "looked it up", metaLen: 40, bodyLen: 1024,
		},
		"dropped":             {kind: completed, dropped: true, attempt: 1, token: 9, since: 10, due: 11, tombstone: 12, scope: "s", id: "i"},
		"forgotten":           {kind: forgotten, attempt: 1, token: 9, since: 10, due: 11},
		"released-by-owner":   {kind: releasedByOwner, answered: true, attempt: 1, token: 9, due: 11, nonce: nonce},
		"released-by-resolve": {kind: releasedByResolve, attempt: 1, token: 9, due: 11, scope: "s", id: "i", note: "not done"},
		"largest": {
			kind: inFlight, attempt: math.MaxUint32, token: math.MaxUint64, since: math.MinInt64, due: math.MaxInt64,
			tombstone: math.MaxInt64, nonce: nonce, fingerprint: fp, scope: strings.Repeat("s", 300), id: strings.Repeat("i", 300),
		},
	}
}

// Trap 60: what was written once stays readable, and nothing else is written
// under the same version.
func TestTrap60GoldenRecords(t *testing.T) {
	for name, r := range goldenRecords() {
		key := driver.KeyOf("golden", name)
		var k diskKey
		under := recordKey(&k, &key)
		b := appendRecord(nil, under, &r)
		file := filepath.Join("testdata", "records", name+".hex")
		if *update {
			if err := os.WriteFile(file, []byte(hex.EncodeToString(b)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		golden, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, golden) {
			t.Errorf("%s is written as\n%x\nand was once as\n%x", name, b, golden)
		}
		var got record
		if err := decodeRecord(golden, under, &got); err != nil || got != r {
			t.Errorf("%s is read as %+v, %v; it was %+v", name, got, err, r)
		}
	}
}

// A record of another version, of a state nobody knows, under another key, cut
// off or with a flipped bit is refused.
func TestRecordsThatCannotBeRead(t *testing.T) {
	r := goldenRecords()["completed"]
	under := []byte("r under")
	good := appendRecord(nil, under, &r)
	var got record
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if decodeRecord(bad, under, &got) == nil {
				t.Errorf("bit %d of byte %d was flipped, and the record was read", bit, i)
			}
		}
		if decodeRecord(good[:i], under, &got) == nil {
			t.Errorf("%d of %d bytes were read as a record", i, len(good))
		}
	}
	if err := decodeRecord(good, []byte("r other"), &got); !errors.Is(err, errChecksum) {
		t.Errorf("a record was read under another key: %v", err)
	}
	// With a checksum that fits.
	again := func(change func(b []byte) []byte) error {
		b := change(bytes.Clone(good[:len(good)-4]))
		sum := checksum(under, b)
		return decodeRecord(append(b, byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)), under, &got)
	}
	for name, change := range map[string]func(b []byte) []byte{
		"a newer version": func(b []byte) []byte { b[0] = recordVersion + 1; return b },
		"an unknown state": func(b []byte) []byte {
			b[1] = byte(releasedByResolve) + 1
			return b
		},
		"no state":         func(b []byte) []byte { b[1] = 0; return b },
		"bytes at the end": func(b []byte) []byte { return append(b, 0) },
		"no body":          func(b []byte) []byte { return b[:2] },
		"nothing":          func(b []byte) []byte { return nil },
		"a long name":      func(b []byte) []byte { b[len(b)-1] |= 0x80; return b },
	} {
		if err := again(change); err == nil {
			t.Errorf("a record with %s was read", name)
		}
	}
	if err := again(func(b []byte) []byte { return b }); err != nil {
		t.Errorf("an unchanged record was not read: %v", err)
	}
}

// FuzzRecord: whatever the bytes are, decoding ends, and what it gives is written
// as it was read.
func FuzzRecord(f *testing.F) {
	under := []byte("r fuzz")
	for _, r := range goldenRecords() {
		b := appendRecord(nil, under, &r)
		f.Add(b, true)
		f.Add(b[:len(b)-4], false)
	}
	f.Fuzz(func(t *testing.T, b []byte, whole bool) {
		if !whole {
			sum := checksum(under, b)
			b = append(bytes.Clone(b), byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24))
		}
		var r, again record
		if decodeRecord(b, under, &r) != nil {
			return
		}
		if err := decodeRecord(appendRecord(nil, under, &r), under, &again); err != nil || again != r {
			t.Fatalf("%+v is read back as %+v, %v", r, again, err)
		}
	})
}
