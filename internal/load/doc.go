// Package load holds the tests that put weight on the real programs: many
// orders at once, odd services, thousands of services, and no work at all.
// It has no code of its own; the victim they supervise is in victim, what
// builds and runs the programs is in rig.
package load
