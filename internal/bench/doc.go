// Package bench holds what "make bench" runs: one table of what sysmgr costs,
// each measure beside its floor, which is measured in the same run and as
// nearly as possible in the same moment: the bare loop that does the same work
// and keeps no promise. Absolute times say more about the machine.
//
// It has no code of its own; the programs are run by internal/load/rig. The
// file of each part:
//
//	bench_test.go  the rounds, and what is measured in them
//	yard_test.go   a daemon with services that tell when they began
//	floor_test.go  the bare loops
//	tiny_test.go   the program that all of them run
//	table_test.go  the table, and its picture
//	peers_test.go  the same measures of other supervisors
package bench
