package report

import (
	"fmt"
	"html"
	"math"
	"strings"

	"github.com/idem-go/idem/bench/internal/proxies"
)

// The picture's measures, in pixels.
const (
	width      = 860
	left       = 190 // where bars begin
	right      = 70  // what is left beside the longest, for its figure
	rowHeight  = 34
	barHeight  = 18
	headHeight = 64
	gap        = 30
)

const (
	colourInk    = "#1f2933"
	colourQuiet  = "#616e7c"
	colourGrid   = "#d9dee4"
	colourIdem   = "#2f6fab"
	colourOther  = "#b8c4d0"
	colourBudget = "#c2410c"
)

// SVG returns the picture: the ratios to the bare proxy, and the pairs a second
// of the stores.
func (r *Report) SVG() []byte {
	var p picture
	y := p.ratios(r, 0)
	y = p.pairs(r, y+gap)
	p.text(20, float64(y)+24, 11, colourQuiet, "start", fmt.Sprintf("%s, %d cores, %s, %s, %s", r.Machine.CPU, r.Machine.Cores, r.Machine.Kernel, r.Machine.Go, r.Began.UTC().Format("2006-01-02")))
	height := y + 40
	return fmt.Appendf(nil, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif" role="img">
<title>idem: speed through the proxy, and of the file store</title>
<rect width="%d" height="%d" fill="#ffffff"/>
%s</svg>
`, width, height, width, height, width, height, p.String())
}

type picture struct{ strings.Builder }

// figure writes a bar's value beside it, readable over the lines of the grid.
func (p *picture) figure(x float64, y int, text string) {
	fmt.Fprintf(p, "<text x=\"%.1f\" y=\"%d\" font-size=\"13\" fill=\"%s\" stroke=\"#ffffff\" stroke-width=\"5\" paint-order=\"stroke\">%s</text>\n", x+8, y+rowHeight/2+4, colourInk, html.EscapeString(text))
}

// ratios draws a bar for each scenario, its range, and its budget. It returns
// where the drawing ends.
func (p *picture) ratios(r *Report, top int) int {
	p.head(top, fmt.Sprintf("Answers a second through idem proxy, %d connections", proxies.Conns),
		"1 is a bare reverse proxy measured before and after; the line over each bar spans all rounds, the mark is the budget")
	most := 1.0
	for _, c := range r.Proxies.Comparisons {
		most = max(most, c.Ratio.Max(), proxyBudget(c.Name).goal)
	}
	rows := len(r.Proxies.Comparisons)
	scale := newScale(most)
	p.grid(scale, top+headHeight, rows, func(v float64) string { return fmt.Sprintf("%g", v) })
	p.line(scale.x(1), top+headHeight-4, scale.x(1), top+headHeight+rows*rowHeight, colourInk, 1.5)
	for i, c := range r.Proxies.Comparisons {
		y := top + headHeight + i*rowHeight
		v := c.Ratio.Median()
		p.label(y, c.Name)
		p.bar(y, scale.x(v), colourIdem)
		middle := float64(y) + rowHeight/2
		p.lineAt(scale.x(c.Ratio.Min()), middle, scale.x(c.Ratio.Max()), middle, colourInk, 1.5)
		b := proxyBudget(c.Name)
		if mark := max(b.floor, 0); mark > 0 {
			p.lineAt(scale.x(mark), middle-barHeight/2-3, scale.x(mark), middle+barHeight/2+3, colourBudget, 2.5)
		}
		p.figure(scale.x(max(v, c.Ratio.Max())), y, fmt.Sprintf("%.2f", v))
	}
	return top + headHeight + rows*rowHeight + 18
}

// pairs draws the file store over bbolt, for each number of callers.
func (p *picture) pairs(r *Report, top int) int {
	p.head(top, "Claims and completions a second, 1 KiB results, each synced", "the file store over bbolt with one Update an operation")
	most := 1.0
	for _, c := range r.Stores {
		most = max(most, c.File.Median(), c.Bolt.Median())
	}
	rows := 2 * len(r.Stores)
	scale := newScale(most)
	thousands := func(v float64) string {
		if v >= 1000 {
			return fmt.Sprintf("%gk", v/1000)
		}
		return fmt.Sprintf("%.0f", v)
	}
	p.grid(scale, top+headHeight, rows, thousands)
	for i, c := range r.Stores {
		for j, v := range []float64{c.File.Median(), c.Bolt.Median()} {
			y := top + headHeight + (2*i+j)*rowHeight
			name, colour := "bbolt", colourOther
			if j == 0 {
				name, colour = plural(c.Callers, "caller")+", file store", colourIdem
			}
			p.label(y, name)
			p.bar(y, scale.x(v), colour)
			p.figure(scale.x(v), y, fmt.Sprintf("%.0f", v))
		}
	}
	return top + headHeight + rows*rowHeight + 18
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// scale maps values to places.
type scale struct{ most, step float64 }

// newScale returns a scale that reaches most in at most eight steps of a round
// width.
func newScale(most float64) scale {
	step := math.Pow(10, math.Floor(math.Log10(most))-1)
	for _, factor := range []float64{2, 2.5, 2, 2, 2.5, 2} {
		if most/step <= 8 {
			break
		}
		step *= factor
	}
	return scale{math.Ceil(most/step) * step, step}
}

func (s scale) x(v float64) float64 { return left + v/s.most*(width-left-right) }

func (p *picture) grid(s scale, top, rows int, name func(float64) string) {
	bottom := top + rows*rowHeight
	for i := 0; float64(i)*s.step <= s.most+s.step/100; i++ {
		v := float64(i) * s.step
		p.line(s.x(v), top-4, s.x(v), bottom, colourGrid, 1)
		p.text(s.x(v), float64(bottom)+14, 11, colourQuiet, "middle", name(v))
	}
}

func (p *picture) head(top int, title, subtitle string) {
	p.text(20, float64(top)+28, 17, colourInk, "start", title)
	p.text(20, float64(top)+47, 12, colourQuiet, "start", subtitle)
}

func (p *picture) label(y int, text string) {
	p.text(left-10, float64(y)+rowHeight/2+4, 13, colourInk, "end", text)
}

func (p *picture) bar(y int, x float64, colour string) {
	fmt.Fprintf(p, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>\n", left, y+(rowHeight-barHeight)/2, x-left, barHeight, colour)
}

func (p *picture) line(x1 float64, y1 int, x2 float64, y2 int, colour string, w float64) {
	p.lineAt(x1, float64(y1), x2, float64(y2), colour, w)
}

func (p *picture) lineAt(x1, y1, x2, y2 float64, colour string, w float64) {
	fmt.Fprintf(p, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"%g\"/>\n", x1, y1, x2, y2, colour, w)
}

func (p *picture) text(x, y float64, size int, colour, anchor, text string) {
	fmt.Fprintf(p, "<text x=\"%.1f\" y=\"%.1f\" font-size=\"%d\" fill=\"%s\" text-anchor=\"%s\">%s</text>\n", x, y, size, colour, anchor, html.EscapeString(text))
}
