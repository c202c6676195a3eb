package report

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem/bench/internal/allocs"
	"github.com/idem-go/idem/bench/internal/proxies"
	"github.com/idem-go/idem/bench/internal/stats"
	"github.com/idem-go/idem/bench/internal/stores"
)

// sample is a report whose figures keep every budget and reach every goal.
func sample() *Report {
	r := &Report{
		Machine: Machine{Cores: 2, CPU: "A <CPU> & more", Kernel: "Linux 6", Go: "go1.26"},
		Command: "make bench", Began: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Rounds: 3, Duration: time.Second,
		Proxies: &proxies.Results{},
		Stores:  []stores.Comparison{{Callers: 1, File: stats.Sample{2000}, Bolt: stats.Sample{1000}, Ratio: stats.Sample{2}}, {Callers: 64, File: stats.Sample{30000}, Bolt: stats.Sample{1500}, Ratio: stats.Sample{20}}},
		Allocs:  []allocs.Count{{Name: "fresh key", With: 10, Budget: 12}},
	}
	for _, s := range proxies.Scenarios() {
		r.Proxies.Comparisons = append(r.Proxies.Comparisons, proxies.Comparison{Scenario: s, Ratio: stats.Sample{3.1, 3.0, 3.3}, Rate: stats.Sample{3e4}, BareRate: stats.Sample{1e4}})
	}
	return r
}

func TestEveryScenarioHasABudget(t *testing.T) {
	for _, s := range proxies.Scenarios() {
		if proxyBudget(s.Name).goal == 0 {
			t.Errorf("%s has no goal", s.Name)
		}
	}
}

func TestMissedBudgetsAreNamed(t *testing.T) {
	r := sample()
	if m := r.Missed(); len(m) > 0 {
		t.Fatalf("nothing is missed, and %q is named", m)
	}
	r.Proxies.Comparisons[2].Ratio = stats.Sample{0.49, 0.6, 0.2}
	r.Stores[1].Ratio = stats.Sample{14.9}
	r.Allocs[0].With = 13
	m := r.Missed()
	if len(m) != 3 || !slices.ContainsFunc(m, func(s string) bool { return strings.HasPrefix(s, "fresh keys, file:") }) {
		t.Errorf("named are %q", m)
	}
	if got := strings.Count(r.Markdown(), "**missed**"); got != 3 {
		t.Errorf("the tables name %d missed budgets, want 3:\n%s", got, r.Markdown())
	}
}

func TestInsertKeepsTheRestOfThePage(t *testing.T) {
	page := "before\n" + beginMark + "\nold\n" + endMark + "\nafter\n"
	got, err := Insert([]byte(page), "new\n")
	if err != nil {
		t.Fatal(err)
	}
	if want := "before\n" + beginMark + "\n\nnew\n\n" + endMark + "\nafter\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
	again, err := Insert(got, "new\n")
	if err != nil || string(again) != string(got) {
		t.Errorf("a second time gives %q, %v", again, err)
	}
	if _, err := Insert([]byte("no marks"), "new"); err == nil {
		t.Error("a page without marks is taken")
	}
}

func TestPictureEscapesText(t *testing.T) {
	if svg := string(sample().SVG()); strings.Contains(svg, "<CPU>") || !strings.Contains(svg, "A &lt;CPU&gt; &amp; more") {
		t.Errorf("the machine's name is not escaped:\n%s", svg)
	}
}
