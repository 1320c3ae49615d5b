package actor

import (
	"cmp"
	"slices"
)

// member is a service of the supervisor's. What it knows of that stands in the
// Service itself: there may be very many, and nothing of an entry is kept twice.
type member struct{ service *Service }

// members is all of them, sorted by name. A map takes four times that.
type members []member

func (m members) place(name string) (at int, there bool) {
	return slices.BinarySearchFunc(m, name, func(m member, name string) int { return cmp.Compare(m.service.name, name) })
}

func (m members) get(name string) (found member, ok bool) {
	at, ok := m.place(name)
	if !ok {
		return member{}, false
	}
	return m[at], true
}

// add adds one, which is quick if it is the last by its name, as those of the
// first snapshot are.
func (m *members) add(s *Service) {
	at := len(*m)
	if at > 0 && s.name <= (*m)[at-1].service.name {
		at, _ = m.place(s.name)
	}
	*m = slices.Insert(*m, at, member{s})
}

func (m *members) remove(name string) {
	if at, there := m.place(name); there {
		*m = slices.Delete(*m, at, at+1)
	}
}
