//go:build linux

package torture

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sysmgr/internal/load/rig"
)

// How much torture: set by make torture. Without TORTURE, as in make test,
// there is a little of everything.
var (
	amount  = os.Getenv("TORTURE") // "", "short" or "long"
	seed    = number("TORTURE_SEED", uint64(time.Now().UnixNano()))
	minutes = number("TORTURE_MINUTES", 10)
)

func number(key string, usual uint64) uint64 {
	word := os.Getenv(key)
	if word == "" {
		return usual
	}
	n, err := strconv.ParseUint(word, 10, 64)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", key, err)
		os.Exit(2)
	}
	return n
}

// choose is how much of something there is to be, by the amount of torture.
func choose[T any](little, short, long T) T {
	switch amount {
	case "short":
		return short
	case "long":
		return long
	}
	return little
}

// some of a list: all of it in make torture, and few that are drawn without.
func some[T any](list []T, few int) []T {
	if amount != "" {
		return list
	}
	var drawn []T
	for _, i := range rand.New(rand.NewPCG(seed, uint64(len(list)))).Perm(len(list))[:min(few, len(list))] {
		drawn = append(drawn, list[i])
	}
	return drawn
}

func TestMain(m *testing.M) {
	flag.Set("test.parallel", "6") // most of these wait most of the time
	rig.Main(m, tally.print, func() {
		for _, do := range afterwards {
			do()
		}
	})
}

// sums counts tries and violations by fault.
type sums struct {
	sync.Mutex
	faults []string
	tries  map[string]int
	bad    map[string]int
	laws   map[string]map[int]int
}

var tally = sums{tries: make(map[string]int), bad: make(map[string]int), laws: make(map[string]map[int]int)}

// print is called when all is over. Only torture asks for the table.
func (s *sums) print() {
	s.Lock()
	defer s.Unlock()
	if amount == "" || len(s.faults) == 0 {
		return
	}
	slices.Sort(s.faults)
	width := len("fault")
	for _, f := range s.faults {
		width = max(width, len(f))
	}
	fmt.Printf("\n%-*s  %6s  %10s\n", width, "fault", "tries", "violations")
	tries, bad := 0, 0
	for _, f := range s.faults {
		var laws []string
		for _, law := range slices.Sorted(maps.Keys(s.laws[f])) {
			laws = append(laws, strconv.Itoa(law))
		}
		line := fmt.Sprintf("%-*s  %6d  %10d", width, f, s.tries[f], s.bad[f])
		if len(laws) > 0 {
			line += "  of law " + strings.Join(laws, ", ")
		}
		fmt.Println(line)
		tries, bad = tries+s.tries[f], bad+s.bad[f]
	}
	fmt.Printf("%-*s  %6d  %10d\n", width, "all", tries, bad)
	fmt.Printf("SEED=%d\n", seed)
}

// try runs one try of a fault as a test of its own, and counts it.
func try(t *testing.T, fault, what string, do func(t *testing.T)) {
	tally.Lock()
	if _, ok := tally.tries[fault]; !ok {
		tally.tries[fault] = 0
		tally.faults = append(tally.faults, fault)
	}
	tally.Unlock()
	t.Run(what, func(t *testing.T) {
		// The first clean-up that is asked for is the last that is done.
		t.Cleanup(func() {
			faults.Delete(t)
			tally.Lock()
			defer tally.Unlock()
			if t.Skipped() {
				return
			}
			tally.tries[fault]++
			if t.Failed() {
				tally.bad[fault]++
			}
		})
		faults.Store(t, fault)
		do(t)
	})
}

// faults maps a running try to its fault.
var faults sync.Map

// broken says that a law was broken in a try.
func broken(t testing.TB, law int, format string, args ...any) {
	t.Helper()
	t.Errorf("law %d (%s): %s", law, laws[law], fmt.Sprintf(format, args...))
	fault, ok := faults.Load(t)
	if !ok {
		return
	}
	tally.Lock()
	defer tally.Unlock()
	if tally.laws[fault.(string)] == nil {
		tally.laws[fault.(string)] = make(map[int]int)
	}
	tally.laws[fault.(string)][law]++
}
