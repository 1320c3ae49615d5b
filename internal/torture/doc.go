// Package torture holds the tests that try to break the real programs: the
// daemon killed at each system call, each of its calls failing, chaos with a
// seed, and attackers. What has to hold all the time is written down once, in
// laws_test.go, for all of them.
//
// It has no code of its own. The victims are those of package load; what
// meddles with the system calls of the daemon is in tracer.
package torture
