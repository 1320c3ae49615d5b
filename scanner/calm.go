package scanner

import "time"

// The slow check is rare while nothing happens and the kernel is known to tell
// of everything that the check would find; see content. Whatever happens brings it
// back, for two rounds at least.

// What is remembered between two slow checks.
const (
	resting int32 = iota // nothing has happened since the last
	stirred              // something has
	calm                 // nothing had for a whole round, so the next is far off
)

// Stir says that something happens, be it elsewhere: the next slow check comes
// within Slow. It does not block, costs next to nothing when it was just called,
// and may be called from any goroutine.
func (s *Scanner) Stir() {
	if s.mood.Load() == stirred || s.mood.Swap(stirred) != calm {
		return
	}
	select {
	case s.stir <- struct{}{}:
	default:
	}
}

// check is the slow check. It tells whether a scan is due, and when the next
// check is.
func (s *Scanner) check() (due bool, next time.Duration) {
	happened := s.mood.Swap(resting) == stirred
	// The ways first: what changes from now on rings, what has changed is seen.
	// That something was missing on one may be over when anything has happened;
	// and once a minute they are laid in any case: this check trusts nobody.
	hurried := s.hasten < s.slow
	if s.rang || !s.covered && (happened || hurried) || time.Since(s.laid) >= s.calm {
		s.cover()
	}
	if s.covered {
		s.hasten = s.slow
	}
	due = s.stale()
	if !happened && !due && s.covered && s.content() && s.mood.CompareAndSwap(resting, calm) {
		return false, s.calm
	}
	if hurried && !s.covered {
		// Somebody may be about to make anew what was lost, and it may be
		// lost again before it is watched.
		next = s.hasten
		s.hasten *= 2
		return due, next
	}
	return due, s.slow
}

// cover watches whatever leads to the directory and to the paths that others look
// at, and notes whether nothing can lead elsewhere without a ring.
func (s *Scanner) cover() {
	s.rang, s.laid = false, time.Now()
	s.covered = s.watcher.Lay(append([]string{s.config.Dir}, s.config.Ways...)...)
}

// content tells whether everything has been seen, and all of it is well. An
// empty directory can be removed without a word of the kernel, if somebody has
// it open.
func (s *Scanner) content() bool {
	return !s.polls && !s.empty && len(s.hung) == 0 && s.nextLook().IsZero() && len(s.doubtful()) == 0
}

// doubtful lists the entries that may be put right without a change in the
// directory.
func (s *Scanner) doubtful() (names []string) {
	for _, k := range s.known.odd {
		if k.entry.Bar != "" && !k.kept {
			names = append(names, k.entry.Name)
		}
	}
	if s.config.Restless == nil {
		return names
	}
	for _, name := range s.config.Restless() {
		if k := s.known.get(name); k.entry.Name != "" && !k.kept && k.entry.Bar == "" {
			names = append(names, name)
		}
	}
	return names
}
