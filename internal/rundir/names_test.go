package rundir

import (
	"slices"
	"strconv"
	"testing"
)

// A file may hold thousands of names, of which a service may have written any
// twice: each counts once, in the order of their first lines.
func TestNamesAreReadOnceEachHoweverManyThereAre(t *testing.T) {
	for _, count := range []int{0, 1, 15, 16, 17, 18, 3000} {
		var want, lines []string
		for i := range count {
			name := strconv.Itoa(i)
			want = append(want, name)
			lines = append(lines, name, strconv.Itoa(i/2), "not/a name", name)
		}
		if got := ParseNames(Names(lines)); !slices.Equal(got, want) {
			t.Errorf("%d: got %q, want %q", count, got, want)
		}
	}
}
