package control

import "slices"

// names is a sorted list of names. A map takes nearly three times that.
type names []string

func (n names) has(name string) bool {
	_, there := slices.BinarySearch(n, name)
	return there
}

func (n *names) add(name string) {
	if at, there := slices.BinarySearch(*n, name); !there {
		*n = slices.Insert(*n, at, name)
	}
}

func (n *names) remove(name string) {
	if at, there := slices.BinarySearch(*n, name); there {
		*n = slices.Delete(*n, at, at+1)
	}
}
