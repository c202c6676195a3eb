package servers

import (
	"os"
	"testing"
	"time"

	"github.com/idem-go/idem/testserver"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := testserver.StopAll(); err != nil {
		code = 1
	}
	os.Exit(code)
}

// The quick form of every comparison: each runs and gives figures, which are not
// judged.
func TestCompare(t *testing.T) {
	s, err := Start()
	if !testserver.Need(t, "postgres", err) {
		return
	}
	all, err := Compare(t.Context(), s, Options{Rounds: 1, Duration: 100 * time.Millisecond, Many: 2000, Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.Ratio.Median() <= 0 || c.Mine.Median() <= 0 || c.Theirs.Median() <= 0 {
			t.Errorf("%s at %d callers has no figures: %+v", c.Name, c.Callers, c)
		}
	}
	sizes, err := Sizes(t.Context(), s, 5000)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range sizes {
		t.Logf("%+v", size)
		if size.Completed < 1024 || size.Tombstone <= 0 || size.Name == "" {
			t.Errorf("%+v", size)
		}
	}
}
