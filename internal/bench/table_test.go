//go:build linux

package bench

import (
	"fmt"
	"html"
	"os"
	"strings"
	"time"
)

// row is one measure: what was seen in each round, and what is asked for.
type row struct {
	what   string
	unit   string
	floor  []float64 // of each round; empty: there is none
	ours   []float64
	target string
	// within tells whether a round is within the target.
	within func(floor, ours float64) bool
}

// ratios of the rounds. A round's two halves were measured together, so that
// what else went on then is in both.
func (r row) ratios() []float64 {
	var out []float64
	for i := range r.floor {
		out = append(out, r.ours[i]/r.floor[i])
	}
	return out
}

// verdict is by the medians.
func (r row) verdict() string {
	switch {
	case r.within == nil:
		return ""
	case r.holds():
		return "kept"
	}
	return "MISSED"
}

func (r row) holds() bool {
	if len(r.floor) == 0 {
		return r.within(0, median(r.ours))
	}
	// The floor that the median of the ratios stands for.
	ours := median(r.ours)
	return r.within(ours/median(r.ratios()), ours)
}

func (r row) cells() []string {
	floor, ratio := "", ""
	if len(r.floor) > 0 {
		floor = number(median(r.floor), r.unit)
		ratio = fmt.Sprintf("%.2f", median(r.ratios()))
		if low, high := quantile(r.ratios(), 0), quantile(r.ratios(), 100); len(r.floor) > 1 {
			ratio += fmt.Sprintf(" (%.2f-%.2f)", low, high)
		}
	}
	ours := number(median(r.ours), r.unit)
	if low, high := number(quantile(r.ours, 0), r.unit), number(quantile(r.ours, 100), r.unit); low != high {
		ours += fmt.Sprintf(" (%s-%s)", low, high)
	}
	return []string{r.what, floor, ours, ratio, r.target, r.verdict()}
}

func number(n float64, unit string) string {
	digits := 0
	switch {
	case n < 10:
		digits = 2
	case n < 100:
		digits = 1
	}
	return fmt.Sprintf("%.*f %s", digits, n, unit)
}

// table is what is printed.
type table struct {
	title string
	rows  []row
}

func (t *table) add(r row) { t.rows = append(t.rows, r) }

func (t *table) String() string {
	lines := [][]string{{"measure", "floor", "ours", "ratio", "target", "verdict"}}
	for _, r := range t.rows {
		lines = append(lines, r.cells())
	}
	width := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, cell := range line {
			width[i] = max(width[i], len([]rune(cell)))
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "\n%s\n\n", t.title)
	for _, line := range lines {
		var text string
		for i, cell := range line {
			text += cell + strings.Repeat(" ", width[i]-len([]rune(cell))+2)
		}
		out.WriteString(strings.TrimRight(text, " ") + "\n")
	}
	return out.String()
}

// picture draws the ratios, one bar each, beside the floor, which is 1.
func (t *table) picture(path string) error {
	const left, unit, high, end = 330, 110, 22, 700
	var bars []row
	for _, r := range t.rows {
		if len(r.floor) > 0 && r.within != nil {
			bars = append(bars, r)
		}
	}
	height := high*len(bars) + 46
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="760" height="%d" font-family="sans-serif" font-size="12">`+"\n", height)
	fmt.Fprintf(&out, `<rect width="760" height="%d" fill="#fff"/>`+"\n", height)
	fmt.Fprintf(&out, `<text x="8" y="16">Times as multiples of the bare loop that does the same work (1); lines are ranges</text>`+"\n")
	for i, r := range bars {
		y := 28 + high*i
		ratios := r.ratios()
		at := func(ratio float64) int { return min(end, left+int(ratio*unit)) }
		fmt.Fprintf(&out, `<text x="%d" y="%d" text-anchor="end">%s</text>`, left-8, y+12, html.EscapeString(r.what))
		fmt.Fprintf(&out, `<rect x="%d" y="%d" width="%d" height="14" fill="#4a7ab5"/>`, left, y+1, at(median(ratios))-left)
		fmt.Fprintf(&out, `<path d="M%d %dH%d" stroke="#222"/>`, at(quantile(ratios, 0)), y+8, at(quantile(ratios, 100)))
		number := fmt.Sprintf("%.2f", median(ratios))
		if at(median(ratios)) == end {
			number = "… " + number // the bar would be longer
		}
		fmt.Fprintf(&out, `<text x="%d" y="%d" fill="#222">%s</text>`+"\n", at(quantile(ratios, 100))+5, y+12, number)
	}
	fmt.Fprintf(&out, `<path d="M%d 24V%d" stroke="#b33" stroke-dasharray="3"/>`+"\n</svg>\n", left+unit, height-12)
	return os.WriteFile(path, []byte(out.String()), 0o644)
}

// ms and us are the units of times in the table.
func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
