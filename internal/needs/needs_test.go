package needs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// graph reads "a:b,c b:d" as a needs b and c, b needs d.
func graph(text string) Graph {
	g := make(Graph)
	for _, word := range strings.Fields(text) {
		name, needs, _ := strings.Cut(word, ":")
		g[name] = nil
		if needs != "" {
			g[name] = strings.Split(needs, ",")
		}
	}
	return g
}

// waves are the services that stop together, if all stops take the same time.
func waves(g Graph) (waves [][]string) {
	before := g.Dependents()
	gone := make(map[string]bool)
	for len(gone) < len(g) {
		var wave []string
		for name := range g {
			if !gone[name] && !slices.ContainsFunc(before[name], func(d string) bool { return !gone[d] }) {
				wave = append(wave, name)
			}
		}
		if wave == nil {
			return append(waves, []string{"stuck"})
		}
		slices.Sort(wave)
		for _, name := range wave {
			gone[name] = true
		}
		waves = append(waves, wave)
	}
	return waves
}

func TestDependentsStopFirst(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "[]",
		"a b c":                           "[[a b c]]",
		"a:b b:c c":                       "[[a] [b] [c]]",
		"a:b,c b:d c:d d":                 "[[a] [b c] [d]]",
		"a:b,b,b b":                       "[[a] [b]]",
		"a:nosuch b":                      "[[a b]]",
		"a:a b:a":                         "[[b] [a]]",
		"a:b b:a":                         "[[a b]]",
		"a:b b:c c:a":                     "[[a b c]]",
		"x:a a:b b:a,y y":                 "[[x] [a b] [y]]",
		"a:b b:a c:d d:c b1:c":            "[[a b b1] [c d]]",
		"web:db,dbus db:net dbus net far": "[[far web] [db dbus] [net]]",
	} {
		if got := fmt.Sprint(waves(graph(text))); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

func TestCircleIsNamedInFull(t *testing.T) {
	for text, want := range map[string]string{
		"a:b b:c c:a":           "a b c a",
		"a:a":                   "a a",
		"a:b b:a":               "a b a",
		"a:b b":                 "",
		"a:b b:c c:b":           "", // it waits for a circle, and is not in it
		"a:b,z b:c c:a z:a":     "a z a",
		"a:x,b x:y y:x b:c c:a": "a b c a",
	} {
		if got := strings.Join(graph(text).Circle("a"), " "); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestAmongKeepsWaysThroughOthers(t *testing.T) {
	g := graph("a:b b:c c:d d:a")
	if got, want := fmt.Sprint(g.Among([]string{"a", "c"})), "map[a:[c] c:[a]]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(graph("a:x,y x:b y b").Among([]string{"a", "b"})), "map[a:[b] b:[]]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// reaches tells whether one needs the other, by whatever way: the slow and
// plain definition.
func reaches(g Graph, from, to string) bool {
	seen := make(map[string]bool)
	var visit func(string) bool
	visit = func(name string) bool {
		for _, need := range g[name] {
			if need == to {
				return true
			}
			if !seen[need] {
				seen[need] = true
				if visit(need) {
					return true
				}
			}
		}
		return false
	}
	return visit(from)
}

func TestLawsOfOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := []string{"a", "b", "c", "d", "e", "f", "g"}
		g := make(Graph)
		for _, name := range names[:rapid.IntRange(0, len(names)).Draw(t, "size")] {
			g[name] = rapid.SliceOfN(rapid.SampledFrom(names), 0, 3).Draw(t, name)
		}
		// Nobody is stuck, and who needs somebody without being needed by him
		// stops before him.
		when := make(map[string]int)
		for i, wave := range waves(g) {
			for _, name := range wave {
				if name == "stuck" {
					t.Fatalf("stuck: %v", waves(g))
				}
				when[name] = i
			}
		}
		inside := make(Graph) // without those that are no part of it
		for name, needs := range g {
			inside[name] = slices.DeleteFunc(slices.Clone(needs), func(need string) bool { _, ok := g[need]; return !ok })
		}
		for a := range g {
			for b := range g {
				if reaches(inside, a, b) && !reaches(inside, b, a) && when[a] >= when[b] {
					t.Fatalf("%s needs %s, but the order is %v", a, b, waves(g))
				}
			}
			circle := g.Circle(a)
			if (circle != nil) != reaches(g, a, a) {
				t.Fatalf("circle of %s: got %v", a, circle)
			}
			for i := 1; i < len(circle); i++ {
				if !slices.Contains(g[circle[i-1]], circle[i]) {
					t.Fatalf("circle of %s: %v is no way", a, circle)
				}
			}
			ring := g.Ring(a)
			for b := range g {
				_, in := ring[b]
				if want := circle != nil && reaches(inside, a, b) && reaches(inside, b, a); in != want {
					t.Fatalf("ring of %s: got %v, %s in it should be %v", a, ring, b, want)
				}
			}
			for member := range maps.Keys(ring) {
				if ring.Circle(member) == nil {
					t.Fatalf("ring of %s: no circle through %s in %v", a, member, ring)
				}
			}
		}
		some := rapid.SliceOfDistinct(rapid.SampledFrom(names), func(s string) string { return s }).Draw(t, "some")
		among := g.Among(some)
		for _, a := range some {
			for _, b := range some {
				if a != b && reaches(g, a, b) != reaches(among, a, b) {
					t.Fatalf("among %v: %s needs %s should be %v in %v", some, a, b, reaches(g, a, b), among)
				}
			}
		}
	})
}
