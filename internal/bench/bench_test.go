//go:build linux

package bench

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"sysmgr/internal/load/rig"
	"sysmgr/internal/rundir"
)

func TestMain(m *testing.M) {
	if program := os.Getenv(asFloor); program != "" {
		beFloor(program)
		return
	}
	rig.Main(m)
}

// The environment of "make bench".
const (
	wanted  = "SYSMGR_BENCH"        // run at all; a number: so many rounds
	drawing = "SYSMGR_BENCH_SVG"    // where to draw the picture
	peers   = "SYSMGR_BENCH_PEERS"  // measure the other supervisors too
	strict  = "SYSMGR_BENCH_STRICT" // a target that is missed is an error
	only    = "SYSMGR_BENCH_ONLY"   // one, many or scale: not all of it
)

const (
	singles = 60     // how often what is about one service is measured in a round
	many    = 1000   // services
	more    = 10_000 // services, for how things grow
)

// rounds are what is seen in the rounds, by measure.
type rounds struct {
	restart, restartFloor   []time.Duration // all samples
	restarts, restartFloors []float64       // medians of the rounds
	appear, appearFloor     []float64
	start, startFloor       []float64
	stop, version           []float64
	boot, bootFloor         []float64
	again                   []float64
	end, endFloor           []float64
	status                  []float64
	calls                   []float64 // system calls of svctl status
	memory                  map[int][]float64

	offered int // how many new services in a round

	more struct {
		boot, bootFloor, again, end, endFloor, status, switches, cpu float64
	}
}

// TestTable is "make bench".
func TestTable(t *testing.T) {
	count, _ := strconv.Atoi(os.Getenv(wanted))
	if count == 0 {
		t.Skip("run by: make bench")
	}
	r := rounds{memory: make(map[int][]float64), offered: singles / 2}
	is := func(part string) bool { return os.Getenv(only) == "" || os.Getenv(only) == part }
	for range count {
		if is("one") {
			t.Run("none", func(t *testing.T) { r.none(t, newOurs) })
			t.Run("one", func(t *testing.T) { r.one(t, newOurs) })
		}
		if is("many") {
			t.Run("many", func(t *testing.T) { r.many(t, newOurs) })
		}
	}
	if is("scale") {
		t.Run("scale", r.scale)
	}
	if t.Failed() {
		return
	}
	table := r.table(fmt.Sprintf("sysmgr, %d rounds; medians (and ranges of the rounds)", count))
	fmt.Print(table)
	fmt.Print("\nfloor: the bare loop that does the same work, measured beside it; ratio: to that.\n" +
		"tool: the shortest run of the tool, svctl -V; spawn: a bare spawn to its first instruction.\n")
	if os.Getenv(peers) != "" {
		comparePeers(t, count)
	}
	if path := os.Getenv(drawing); path != "" {
		if err := table.picture(path); err != nil {
			t.Error(err)
		}
	}
	for _, row := range table.rows {
		if os.Getenv(strict) != "" && row.verdict() == "MISSED" {
			t.Errorf("%s: target missed", row.what)
		}
	}
}

// steady is for how long services have to run before their first end is
// followed by a start at once.
const steady = 1200 * time.Millisecond

// pause is between two samples, so that the first is over when the second
// begins: its files written, its log line too.
const pause = 4 * time.Millisecond

func names(prefix string, count int) []string {
	out := make([]string, count)
	for i := range out {
		out[i] = fmt.Sprintf("%s%05d", prefix, i)
	}
	return out
}

// one measures what is about one service.
func (r *rounds) one(t *testing.T, kind func(*yard) keeper) {
	y := newYard(t)
	k := kind(y)
	k.lay(names("s", singles)...)
	loop := y.floor()
	loop.tell("loop")
	_, bare := y.next(1)
	k.begin()
	last, pids := y.next(singles)
	time.Sleep(last + steady - rundir.Clock())

	var ours, floors []time.Duration
	running := []int{} // of the services
	for _, pid := range pids {
		time.Sleep(pause)
		at := y.kill(pid)
		born, next := y.next(1)
		ours, running = append(ours, born-at), append(running, next...)
		time.Sleep(pause)
		at = y.kill(bare...)
		born, bare = y.next(1)
		floors = append(floors, born-at)
	}
	loop.close(bare...)
	r.restart, r.restartFloor = append(r.restart, ours...), append(r.restartFloor, floors...)
	r.restarts, r.restartFloors = append(r.restarts, us(median(ours))), append(r.restartFloors, us(median(floors)))

	running = append(running, r.offers(y, k)...)

	// Its tool, beside the shortest run of that and a bare spawn.
	spawn := y.floor()
	var versions, stops, starts, spawns []time.Duration
	var tools []int
	for _, name := range names("new", r.offered) {
		time.Sleep(pause)
		versions = append(versions, y.run(k.shortest()...))
		time.Sleep(pause)
		if k.stop(name) == nil {
			continue
		}
		stops = append(stops, y.run(k.stop(name)...))
		time.Sleep(pause)
		spawns = append(spawns, spawn.spawns(1))
		spawn.ends()
		time.Sleep(pause)
		at := rundir.Clock()
		tools = append(tools, y.spawn(os.Stderr, k.start(name)...))
		born, pids := y.next(1)
		starts, running = append(starts, born-at), append(running, pids...)
	}
	for _, pid := range tools {
		y.wait(pid)
	}
	spawn.close()
	if len(stops) > 0 {
		r.version, r.stop = append(r.version, us(median(versions))), append(r.stop, us(median(stops)))
		r.start, r.startFloor = append(r.start, us(median(starts))), append(r.startFloor, us(median(spawns)))
	}
	k.end(running)
}

// offers measures how long a new service waits, beside a bare loop that
// watches a directory.
func (r *rounds) offers(y *yard, k keeper) (running []int) {
	folder := filepath.Join(y.Work, "watched")
	if err := os.Mkdir(folder, 0o755); err != nil {
		y.Fatal(err)
	}
	watching := y.floor()
	watching.tell("watch %s", folder)
	watching.answer()
	var ours, floors []time.Duration
	var bare []int
	for i, name := range names("new", r.offered) {
		if p, ok := k.(*peer); ok {
			p.put(name, y.Work)
		}
		time.Sleep(k.breath(i))
		at := rundir.Clock()
		k.offer(name)
		born, pids := y.next(1)
		ours, running = append(ours, born-at), append(running, pids...)
		at = rundir.Clock()
		y.aside(name, folder)
		born, pids = y.next(1)
		floors, bare = append(floors, born-at), append(bare, pids...)
	}
	watching.close(bare...)
	r.appear, r.appearFloor = append(r.appear, us(median(ours))), append(r.appearFloor, us(median(floors)))
	return running
}

// aside makes a link to the program and renames it into a folder.
func (y *yard) aside(name, folder string) {
	aside := filepath.Join(y.Work, "aside")
	if err := errors.Join(os.Symlink(y.path, aside), os.Rename(aside, filepath.Join(folder, name))); err != nil {
		y.Fatal(err)
	}
}

// none measures what it costs to have nothing to do.
func (r *rounds) none(t *testing.T, kind func(*yard) keeper) {
	k := kind(newYard(t))
	k.begin()
	time.Sleep(settled)
	r.memory[0] = append(r.memory[0], k.memory())
	k.end(nil)
}

// settled is how long after its last work the daemon is looked at: it tidies up
// within five seconds.
const settled = 7 * time.Second

// crowd is what is seen of as many services.
type crowd struct{ boot, bootFloor, again, memory, status, end, endFloor float64 }

func (y *yard) crowd(k keeper, count int, meanwhile func()) (c crowd) {
	k.lay(names("s", count)...)
	bare := y.floor()
	c.bootFloor = ms(bare.spawns(count))
	c.endFloor = ms(bare.ends())
	bare.close()

	begin := rundir.Clock()
	k.begin()
	last, pids := y.next(count)
	c.boot = ms(last - begin)
	time.Sleep(last + steady - rundir.Clock())

	at := y.kill(pids...)
	last, pids = y.next(count)
	c.again = ms(last - at)
	k.settle(count)
	time.Sleep(settled)
	c.memory = k.memory()

	var statuses []time.Duration
	for range 5 {
		statuses = append(statuses, y.run(k.status(count)...))
	}
	c.status = ms(median(statuses))
	if meanwhile != nil {
		meanwhile()
	}
	c.end = k.end(pids)
	return c
}

// many measures what is about a thousand services.
func (r *rounds) many(t *testing.T, kind func(*yard) keeper) {
	y := newYard(t)
	k := kind(y)
	c := y.crowd(k, many, func() {
		if len(r.calls) == 0 {
			r.calls = y.systemCalls(k.status(many), k.status(1))
		}
	})
	r.boot, r.bootFloor, r.again = append(r.boot, c.boot), append(r.bootFloor, c.bootFloor), append(r.again, c.again)
	r.memory[many] = append(r.memory[many], c.memory)
	r.status = append(r.status, c.status)
	r.end, r.endFloor = append(r.end, c.end), append(r.endFloor, c.endFloor)
}

// systemCalls counts those that a command makes for each service, with strace(1)
// if there is one: what it makes for all of them less what it makes for one, or
// for peers without such a command, all of it. It counts calls that have to do with
// files; under strace each takes so long that the runtime's clock, which runs
// beside them, makes calls of its own.
func (y *yard) systemCalls(all, one []string) []float64 {
	strace, err := exec.LookPath("strace")
	if err != nil {
		return nil
	}
	out := filepath.Join(y.Work, "strace")
	count := func(args []string) (n float64) {
		y.run(append([]string{strace, "-f", "-qq", "-e", "trace=%file,%desc", "-c", "-o", out}, args...)...)
		text, _ := os.ReadFile(out)
		total := regexp.MustCompile(`(?m)^100\.00 +\S+ +(?:\S+ +)?(\d+)(?: +\d+)? +total$`).FindSubmatch(text)
		if total != nil {
			n, _ = strconv.ParseFloat(string(total[1]), 64)
		}
		return n
	}
	total, services := count(all), float64(many)
	if total == 0 {
		return nil
	}
	if one != nil {
		total, services = total-count(one), services-1
	}
	// To a tenth: the directory is read too, and the runtime waits now and then.
	return []float64{math.Round(10*total/services) / 10}
}

// scale measures what is about ten thousand, once, and the daemon at rest.
func (r *rounds) scale(t *testing.T) {
	// Of rest, at which it looks around once: that is scanner.Calm.
	const stretch = time.Minute
	y := newYard(t)
	y.Patience = patience
	c := y.crowd(newOurs(y), more, func() {
		// At the first look the directory is still so new that it is read
		// again, and the runtime gives memory back for a while; and the daemon
		// is at rest when nothing has happened between two looks.
		time.Sleep(30 * time.Second)
		before := y.Usage()
		time.Sleep(stretch)
		after := y.Usage()
		r.more.switches = float64(after.Switches-before.Switches) / stretch.Seconds()
		r.more.cpu = (after.CPU - before.CPU).Seconds() * 1000
	})
	r.more.boot, r.more.bootFloor, r.more.again, r.more.status = c.boot, c.bootFloor, c.again, c.status
	r.more.end, r.more.endFloor = c.end, c.endFloor
	r.memory[more] = []float64{c.memory}
}

// table holds the targets.
func (r *rounds) table(title string) *table {
	t := &table{title: title}
	times := func(bound float64) func(floor, ours float64) bool {
		return func(floor, ours float64) bool { return ours <= bound*floor }
	}
	most := func(bound float64) func(floor, ours float64) bool {
		return func(_, ours float64) bool { return ours <= bound }
	}
	if len(r.restarts) > 0 {
		t.add(row{"death to first instruction, median", "µs", r.restartFloors, r.restarts, "1.3 x floor", times(1.3)})
		middle := us(median(r.restartFloor))
		t.add(row{"death to first instruction, p99", "µs", []float64{middle}, []float64{us(quantile(r.restart, 99))}, "3 x floor's median", times(3)})
		t.add(row{"  the floor's own p99", "µs", []float64{middle}, []float64{us(quantile(r.restartFloor, 99))}, "", nil})
		t.add(row{"new file to first instruction", "µs", r.appearFloor, r.appear, "1.5 x floor", times(1.5)})
	}
	if len(r.stop) > 0 {
		sum := make([]float64, len(r.version))
		for i := range sum {
			sum[i] = r.version[i] + r.startFloor[i]
		}
		version, spawn := median(r.version), median(r.startFloor)
		t.add(row{"start by its tool to first instruction", "µs", sum, r.start, "tool + 1.5 x spawn", most(version + 1.5*spawn)})
		t.add(row{"stop by its tool, whole command", "µs", r.version, r.stop, "2 x tool + 2 ms", most(2*version + 2000)})
	}
	if len(r.boot) > 0 {
		t.add(row{"start of it to 1,000 running", "ms", r.bootFloor, r.boot, "1.3 x floor", times(1.3)})
		t.add(row{"1,000 killed at once to all running", "ms", r.bootFloor, r.again, "1.5 x floor", times(1.5)})
		t.add(row{"shutdown of 1,000", "ms", r.endFloor, r.end, "2 x floor", times(2)})
		t.add(row{"status of 1,000, whole command", "ms", nil, r.status, "15 ms", most(15)})
		if len(r.calls) > 0 {
			t.add(row{"  its calls about files, each service", "", nil, r.calls, "3", most(3)})
		}
	}
	for _, m := range []struct {
		count int
		what  string
		most  float64
	}{{0, "memory (PSS), no service", 5}, {many, "memory (PSS), 1,000 services", 8}, {more, "memory (PSS), 10,000 services", 40}} {
		if len(r.memory[m.count]) > 0 {
			t.add(row{m.what, "MB", nil, r.memory[m.count], fmt.Sprintf("%.0f MB", m.most), most(m.most)})
		}
	}
	if m := r.more; m.boot > 0 {
		t.add(row{"at rest, 10,000: context switches", "/s", nil, []float64{m.switches}, "0.3 /s", most(0.3)})
		t.add(row{"at rest, 10,000: CPU in 60 s", "ms", nil, []float64{m.cpu}, "less than a tick, 10 ms", most(10)})
		t.add(row{"start of it to 10,000 running", "ms", []float64{m.bootFloor}, []float64{m.boot}, "1.3 x floor", times(1.3)})
		t.add(row{"10,000 killed at once to all running", "ms", []float64{m.bootFloor}, []float64{m.again}, "1.5 x floor", times(1.5)})
		t.add(row{"shutdown of 10,000", "ms", []float64{m.endFloor}, []float64{m.end}, "2 x floor", times(2)})
		t.add(row{"status of 10,000, whole command", "ms", nil, []float64{m.status}, "150 ms", most(150)})
	}
	return t
}

// comparePeers measures the others, as far as they are installed, and prints
// the same table of each. Their limits, where they have one, are a thousand
// services.
func comparePeers(t *testing.T, count int) {
	for _, kind := range peerKinds {
		if !kind.installed() {
			fmt.Printf("\n%s: not installed\n", kind.name)
			continue
		}
		// Some look for new services every five seconds: fewer samples of that.
		r := rounds{memory: make(map[int][]float64), offered: 4}
		for range count {
			t.Run(kind.name, func(t *testing.T) {
				t.Run("none", func(t *testing.T) { r.none(t, kind.make) })
				t.Run("one", func(t *testing.T) { r.one(t, kind.make) })
				t.Run("many", func(t *testing.T) { r.many(t, kind.make) })
			})
		}
		if t.Failed() {
			return
		}
		table := r.table(fmt.Sprintf("%s, %d rounds (%s)", kind.name, count, kind.manual))
		fmt.Print(strings.ReplaceAll(table.String(), "ours", "its "))
	}
}
