// Package bench holds the benchmarks that "make bench" runs: what sysmgr
// costs, as ratios to the bare fork, execve and wait of the same program on
// the same machine in the same minute. Absolute times say more about the
// machine than about sysmgr.
//
// It has no code of its own; the programs are run by internal/load/rig.
package bench
