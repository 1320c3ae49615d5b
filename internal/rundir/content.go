package rundir

import "slices"

// Content is which of its files a folder has, as far as there is any use in
// knowing that beforehand: to read or to remove what is not there costs a
// system call each. Two tell of all.
type Content uint16

// the files whose presence a Content tells; what comes after them stands for
// all others.
var listed = [...]string{
	Pid, Syspid, Lock, State, Control, Taken, GuardFile, Ready,
	StopSignal, StopTimeout, Waiting, Needs, Waited, Circle,
}

const (
	otherFiles Content = 1 << len(listed)
	// Everything is the Content of a folder that nobody could list: any file
	// may be there.
	Everything = otherFiles<<1 - 1
)

// Has tells whether a file is there, or may be.
func (c Content) Has(file string) bool {
	i := slices.Index(listed[:], file)
	return i < 0 || c&(1<<i) != 0
}

// others tells whether there are files that are none of ours.
func (c Content) others() bool { return c&otherFiles != 0 }

// with is c and one more file.
func (c Content) with(file []byte) Content {
	for i, name := range listed {
		if name == string(file) {
			return c | 1<<i
		}
	}
	return c | otherFiles
}
