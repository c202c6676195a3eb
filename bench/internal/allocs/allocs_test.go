package allocs

import "testing"

func TestEachKindIsCounted(t *testing.T) {
	counts, err := Measure(200)
	if err != nil {
		t.Fatal(err)
	}
	if len(counts) != 2 || counts[0].Name != "fresh key" || counts[1].Name != "replay" {
		t.Fatalf("counted %v, want a fresh key and a replay", counts)
	}
	for _, c := range counts {
		if c.Added() <= 0 {
			t.Errorf("%s: the middleware adds %v allocations; it cannot be less than one", c.Name, c.Added())
		}
	}
}

func TestBudgetIsInWholeAllocations(t *testing.T) {
	for added, want := range map[float64]bool{11.9: true, 12.3: true, 12.6: false, 13: false} {
		if c := (Count{Bare: 2, With: 2 + added, Budget: 12}); c.Met() != want {
			t.Errorf("%v more are within a budget of 12: %v, want %v", added, c.Met(), want)
		}
	}
}
