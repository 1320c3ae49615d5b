package rundir

import "golang.org/x/sys/unix"

// replaceDescriptor makes the number of one descriptor stand for another, in
// one step (dup3(2)): whoever uses that number is never without.
func replaceDescriptor(from, to int) error { return unix.Dup3(from, to, unix.O_CLOEXEC) }
