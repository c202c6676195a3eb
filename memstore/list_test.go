package memstore_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/memstore"
)

// Records are listed in the order of their keys, from a shard that is large as
// well as from many that are small, and no page misses or repeats one.
func TestListIsInOrder(t *testing.T) {
	s := memstore.New(nil)
	want := 0
	for i := range 4000 {
		req := request(fmt.Sprint(i))
		if i%2 == 0 {
			req.Key = driver.Key{7}
			binary.LittleEndian.PutUint32(req.Key[1:], uint32(i))
		}
		ref := grant(t, s, req)
		if i%5 == 0 {
			complete(t, s, ref, completion(req.ID, "r"))
		} else {
			want++
		}
	}
	var last driver.Key
	q := driver.Query{Limit: 37, States: []driver.State{driver.StateInFlight}}
	for n := 0; ; {
		page, err := s.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range page.Records {
			if n > 0 && bytes.Compare(rec.Key[:], last[:]) <= 0 {
				t.Fatalf("the key %s comes after %s", rec.Key, last)
			}
			last = rec.Key
			n++
		}
		if q.After = page.Next; q.After == "" {
			if n != want {
				t.Errorf("%d records were listed, want %d", n, want)
			}
			return
		}
	}
}

func TestListOfAPageThatIsNone(t *testing.T) {
	s := memstore.New(nil)
	for _, after := range []string{"x", "00", "zz" + fmt.Sprintf("%062d", 0), fmt.Sprintf("%066d", 0)} {
		if _, err := s.List(t.Context(), driver.Query{Limit: 1, After: after}); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("List after %q: %v, want %v", after, err, driver.ErrInvalid)
		}
	}
}
