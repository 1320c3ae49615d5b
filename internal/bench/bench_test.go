//go:build linux

package bench

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/control"
	"sysmgr/internal/load/rig"
	"sysmgr/internal/rundir"
)

func TestMain(m *testing.M) { rig.Main(m, table.print) }

// table is what the benchmarks have found, for people.
var table rows

type rows [][]string

func (t *rows) add(cells ...string) { *t = append(*t, cells) }

func (t *rows) print() {
	if len(*t) == 0 {
		return
	}
	fmt.Printf("\n%-52s %10s %10s %10s\n", "", "median", "p90", "ratio")
	for _, row := range *t {
		row = append(row, make([]string, 4-len(row))...)
		fmt.Println(strings.TrimRight(fmt.Sprintf("%-52s %10s %10s %10s", row[0], row[1], row[2], row[3]), " "))
	}
	fmt.Print("\nratio: to the floor of the same benchmark, fork+execve+wait4 of the same program (static, Go).\n\n")
}

// yard is a rig whose victims tell when they were executed.
type yard struct {
	*testing.B
	*rig.Rig
	victim string
	fifo   string
	stamps chan stamp
	env    []string // of victims that are started here

	floors  []time.Duration // fork to wait4, of a program that ends at once
	instant []time.Duration // fork to its first instruction
}

// stamp is what a victim says of itself.
type stamp struct {
	name string
	pid  int
	born time.Duration // by rundir.Clock
}

func newYard(b *testing.B) *yard {
	y := &yard{B: b, Rig: rig.New(b, rig.Plain), victim: rig.Program(b, rig.Plain, "victim"), stamps: make(chan stamp, 4096)}
	y.fifo = filepath.Join(y.Work, "stamps")
	if err := unix.Mkfifo(y.fifo, 0o600); err != nil {
		b.Fatal(err)
	}
	// Open for both: victims do not wait, and there is never an end.
	file, err := os.OpenFile(y.fifo, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { file.Close() })
	go func() {
		defer close(y.stamps)
		for lines := bufio.NewScanner(file); lines.Scan(); {
			words := strings.Fields(lines.Text())
			pid, _ := strconv.Atoi(words[1])
			born, _ := strconv.ParseInt(words[2], 10, 64)
			y.stamps <- stamp{words[0], pid, time.Duration(born)}
		}
	}()
	y.env = y.Environment("SYSMGR_NAME=floor", "VICTIM_STAMP="+y.fifo)
	return y
}

// next is the stamp of a service, or of anybody if there is no name.
func (y *yard) next(name string) stamp {
	y.Helper()
	deadline := time.After(rig.Patience)
	for {
		select {
		case s := <-y.stamps:
			if name == "" || s.name == name {
				return s
			}
		case <-deadline:
			y.Fatalf("%s: not executed within %s", name, rig.Patience)
		}
	}
}

// fork is the bare start of a victim.
func (y *yard) fork(env ...string) int {
	y.Helper()
	pid, err := syscall.ForkExec(y.victim, []string{y.victim}, &syscall.ProcAttr{
		Env: append(y.env[:len(y.env):len(y.env)], env...), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		y.Fatal(err)
	}
	return pid
}

func (y *yard) wait4(pid int) {
	y.Helper()
	for {
		_, err := syscall.Wait4(pid, nil, 0, nil)
		if err == nil {
			return
		}
		if err != syscall.EINTR {
			y.Fatal(err)
		}
	}
}

// floor takes samples of what everything here is compared with.
func (y *yard) floor(count int) {
	y.Helper()
	for range count {
		begin := rundir.Clock()
		y.wait4(y.fork("VICTIM_BRIEF=1"))
		y.floors = append(y.floors, rundir.Clock()-begin)
		y.instant = append(y.instant, y.next("floor").born-begin)
	}
}

// start starts the daemon, whose services are victims.
func (y *yard) start() {
	y.Helper()
	y.StartWith([]string{"VICTIM_STAMP=" + y.fifo})
}

// report puts samples into the table and among the benchmark's metrics.
func (y *yard) report(what string, samples []time.Duration) {
	floor := quantile(y.floors, 50)
	ratio := float64(quantile(samples, 50)) / float64(floor)
	y.ReportMetric(0, "ns/op") // of b.N, which says nothing here
	y.ReportMetric(ratio, "x-floor")
	y.ReportMetric(us(quantile(samples, 50)), "µs-median")
	y.ReportMetric(us(quantile(samples, 90)), "µs-p90")
	y.ReportMetric(us(floor), "µs-floor")
	y.row(what, samples)
	y.row("  floor: fork+execve+wait4", y.floors)
	y.row("  floor: fork to first instruction", y.instant)
}

func (y *yard) row(what string, samples []time.Duration) {
	median := quantile(samples, 50)
	table.add(fmt.Sprintf("%s (%d)", what, len(samples)), show(median), show(quantile(samples, 90)),
		fmt.Sprintf("%.2f", float64(median)/float64(quantile(y.floors, 50))))
}

func quantile(samples []time.Duration, percent int) time.Duration {
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[((len(sorted)-1)*percent+99)/100]
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func show(d time.Duration) string { return fmt.Sprintf("%.0f µs", us(d)) }

// names are those of as many services.
func names(count int) []string {
	out := make([]string, count)
	for i := range out {
		out[i] = fmt.Sprintf("s%04d", i)
	}
	return out
}

// samples is how often a single service is measured. b.N has no say: a
// benchmark here is as many samples as it needs, once.
const samples = 80

// From kill -9 of a service to the first instruction of its next instance.
// Its first end after a second of life is followed by a start at once, the
// next ones are not: so each service is killed once.
func BenchmarkDeathToExec(b *testing.B) {
	y := newYard(b)
	services := names(samples)
	for _, name := range services {
		y.Link(name, y.victim)
	}
	y.start()
	pids := make(map[string]int)
	var youngest time.Duration
	for len(pids) < samples {
		s := y.next("")
		pids[s.name], youngest = s.pid, max(youngest, s.born)
	}
	const enough = 1500 * time.Millisecond
	var took []time.Duration
	for _, name := range services {
		y.floor(1)
		time.Sleep(max(5*time.Millisecond, youngest+enough-rundir.Clock()))
		at := y.Kill(pids[name])
		took = append(took, y.next(name).born-at)
	}
	y.report("kill -9 to first instruction of the next", took)
	y.End()
}

// From the rename of an entry into the service directory, which is the moment
// it is complete, to its first instruction.
func BenchmarkNewFileToExec(b *testing.B) {
	y := newYard(b)
	y.start()
	var took []time.Duration
	for _, name := range names(samples) {
		aside := filepath.Join(y.Work, name)
		if err := os.Symlink(y.victim, aside); err != nil {
			b.Fatal(err)
		}
		y.floor(1)
		// The scanner takes a breath after each scan, to see a burst of
		// changes as one; this is about a single change.
		time.Sleep(25 * time.Millisecond)
		at := rundir.Clock()
		if err := os.Rename(aside, filepath.Join(y.Sysdir, name)); err != nil {
			b.Fatal(err)
		}
		took = append(took, y.next(name).born-at)
	}
	y.report("new file to first instruction", took)
	y.End()
}

// From the start of the daemon to the first instruction of the last of its
// thousand services, divided by a thousand; and the same for a bare loop that
// forks a thousand of them one after the other.
func BenchmarkThousandServices(b *testing.B) {
	const count, rounds = 1000, 3
	y := newYard(b)
	for _, name := range names(count) {
		y.Link(name, y.victim)
	}
	last := func() (born time.Duration) {
		for range count {
			born = max(born, y.next("").born)
		}
		return born
	}
	var took, bare []time.Duration
	for range rounds {
		y.floor(50)
		begin := rundir.Clock()
		pids := make([]int, count)
		for i := range pids {
			pids[i] = y.fork()
		}
		bare = append(bare, (last()-begin)/count)
		for _, pid := range pids {
			y.Kill(pid)
			y.wait4(pid)
		}

		y.floor(50)
		begin = rundir.Clock()
		y.Launch([]string{"VICTIM_STAMP=" + y.fifo})
		took = append(took, (last()-begin)/count)
		y.End()
	}
	y.report("daemon start to 1,000 services running, each", took)
	y.row("  bare loop of 1,000 fork+execve, each", bare)
}

// The daemon's memory: its proportional set size with services that do
// nothing, some seconds after the last of them came up.
func BenchmarkMemory(b *testing.B) {
	y := newYard(b)
	empty := 0
	for _, count := range []int{0, 100, 1000} {
		services := names(count)
		for _, name := range services {
			y.Link(name, y.Sleeper())
		}
		y.Start()
		if count > 0 {
			y.Await("up", func(v control.View) bool { return v.Phase == rundir.Up }, services...)
		}
		time.Sleep(3 * time.Second)
		pss := y.Usage().PSS
		b.ReportMetric(float64(pss), fmt.Sprintf("kB-PSS-%d", count))
		each := ""
		if count == 0 {
			empty = pss
		} else {
			each = fmt.Sprintf(", %.1f kB each", float64(pss-empty)/float64(count))
		}
		table.add(fmt.Sprintf("PSS with %d services%s", count, each), fmt.Sprintf("%d kB", pss))
		y.End()
		for _, name := range services {
			os.Remove(filepath.Join(y.Sysdir, name))
		}
	}
	b.ReportMetric(0, "ns/op")
}
