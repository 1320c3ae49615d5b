// Package rig runs the real programs for tests: it builds them, starts a
// daemon on folders of its own, asks svctl, and sees to it that nothing of
// all that is left when a test ends, however it ends. Packages load and bench
// use it; no program does.
//
// It signals only processes that carry the mark of their rig in their
// environment, and those through a pidfd. Where it may, it puts the whole test
// program into a PID namespace that dies with it.
package rig
