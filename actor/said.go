package actor

import (
	"errors"
	"io/fs"
	"strings"

	"sysmgr/internal/rundir"
)

// What a run says of itself it says by files that it writes into its folder: that
// it is ready, whom it waits for, and which process is to be shown as its own. The
// status repeats that, so that whoever shows thousands of services reads one file
// of each. Whoever waits for one of these things reads the files themselves, which
// cannot be behind.

// hears tells whether there is a run that may say something, and somebody who
// tells when it does.
func (s *Service) hears() bool {
	return s.state.Group != 0 && s.config.Attend != nil && !s.config.deaf.Load()
}

// hearSaid is called when the run may have said something. The folder is not made
// if it is missing: that is for whoever takes it for an order. Nor is a status
// written where there is none, if there was one: whoever removes the folder takes
// what is in it one after the other.
func (s *Service) hearSaid() {
	if !s.hears() {
		return
	}
	f, err := s.config.Rundir.Folder(s.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		s.unheard = true
		s.silent(err) // it is tried again
		return
	}
	s.folder, s.there = f, f.Content()
	if s.listen(f) && s.there.Has(rundir.State) {
		s.publish()
	}
}

// listen reads what the run says of itself in its folder, and tells whether that
// is something else than it said before.
func (s *Service) listen(f *rundir.Folder) (news bool) {
	s.unheard = false
	var now, before rundir.Said
	if s.hears() {
		now.Ready = s.there.Has(rundir.Ready) && f.Has(rundir.Ready)
		if s.there.Has(rundir.Waiting) {
			for _, name := range rundir.Fit(f.ReadNames(rundir.Waiting)) {
				now.Waiting = append(now.Waiting, strings.Clone(name)) // not with all of the file
			}
		}
		now.Pid = s.pidOfItsOwn(f)
	}
	if s.remarks != nil {
		before = s.remarks.said
	}
	if now.Equal(before) {
		return false
	}
	s.remark().said = now
	return true
}

// pidOfItsOwn is the number that the run has put into its pid file in the place of
// ours, 0 if it has not. As long as the file is not known to be of this run, what
// is in it may be the number of another.
func (s *Service) pidOfItsOwn(f *rundir.Folder) int {
	if s.state.Pid == 0 || s.shownPid != s.state.Pid || !s.there.Has(rundir.Pid) {
		return 0
	}
	data, err := f.Read(rundir.Pid)
	if err != nil {
		return 0
	}
	pid, err := rundir.ParsePid(data)
	if err != nil || pid == int(s.state.Pid) {
		return 0
	}
	return pid
}
