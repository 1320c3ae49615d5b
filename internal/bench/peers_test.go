//go:build linux

package bench

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/control"
	"sysmgr/internal/load/rig"
	"sysmgr/internal/rundir"
)

// keeper is a supervisor as the rounds see it.
type keeper interface {
	lay(names ...string) // puts services where it will look
	begin()              // starts it
	offer(name string)   // puts one where it looks, in one step, when everything else is done
	settle(count int)    // waits until it is done with so many starts

	// Command lines.
	shortest() []string // the least that its tool can do
	stop(name string) []string
	start(name string) []string
	status(count int) []string // of all, or of the first; nil: there is none of one

	memory() float64                 // MB of it and its helpers, not of the services
	end(pids []int) (ms float64)     // ends it and all services
	breath(sample int) time.Duration // before a service is offered
}

// ours is sysmgr.
type ours struct {
	*yard
	svctl string
}

func newOurs(y *yard) keeper { return ours{y, rig.Program(y.TB, rig.Plain, "svctl")} }

func (k ours) lay(names ...string) {
	for _, name := range names {
		k.Link(name, k.path)
	}
}
func (k ours) begin()            { k.Launch(nil) }
func (k ours) offer(name string) { k.aside(name, k.Sysdir) }
func (k ours) settle(count int) {
	k.Await("up", func(v control.View) bool { return v.Phase == rundir.Up }, names("s", count)...)
}
func (k ours) shortest() []string         { return []string{k.svctl, "-V"} }
func (k ours) stop(name string) []string  { return []string{k.svctl, "stop", name} }
func (k ours) start(name string) []string { return []string{k.svctl, "start", name} }
func (k ours) status(count int) []string {
	if count == 1 {
		return []string{k.svctl, "status", names("s", 1)[0]}
	}
	return []string{k.svctl, "status"}
}
func (k ours) memory() float64   { return float64(k.Usage().PSS) / 1000 }
func (k ours) end([]int) float64 { return ms(k.End()) }

// The scanner takes a breath after each scan, to see a burst of changes as
// one; this is about a single change.
func (k ours) breath(int) time.Duration { return 25 * time.Millisecond }

// peer is another supervisor: a directory of directories, in each a program
// called run, and a helper process for each.
type peer struct {
	*yard
	kind *peerKind
	dir  string
	pid  int
}

// peerKind says how one is used, as its manual does.
type peerKind struct {
	name    string
	manual  string
	scanner []string // with the directory behind it
	rescan  []string // how it is told to look again, if it can be
	tool    string   // the shortest run
	stop    []string // with the service's folder behind it; nil: none that waits
	start   []string
	status  string // for the shell, in the directory
	ending  string // for the shell, in the directory, after which it is gone
}

var peerKinds = []*peerKind{{
	name:    "runit",
	manual:  "runsvdir(8), sv(8); it looks for new services every 5 s",
	scanner: []string{"runsvdir"},
	tool:    "sv",
	stop:    []string{"sv", "stop"}, start: []string{"sv", "start"},
	status: "exec sv status ./*", ending: "kill -HUP $1",
}, {
	name:    "s6",
	manual:  "s6-svscan, s6-svscanctl, s6-svc of its documentation; it is told of new services",
	scanner: []string{"s6-svscan", "-c", "1200", "-t", "0"},
	rescan:  []string{"s6-svscanctl", "-a"},
	tool:    "s6-svc",
	stop:    []string{"s6-svc", "-wD", "-d"}, start: []string{"s6-svc", "-u"},
	status: "for d in *; do s6-svstat $d; done", ending: "s6-svscanctl -t .",
}, {
	name:    "daemontools",
	manual:  "svscan(8), svc(8); it looks for new services every 5 s; svc -d does not wait",
	scanner: []string{"svscan"},
	tool:    "svc",
	start:   []string{"svc", "-u"},
	status:  "exec svstat *", ending: "kill $1; svc -dx *",
}}

func (k *peerKind) make(y *yard) keeper { return &peer{yard: y, kind: k, dir: y.Sysdir} }

// installed tells whether all its programs are there.
func (k *peerKind) installed() bool {
	for _, program := range []string{k.scanner[0], k.tool} {
		if _, err := exec.LookPath(program); err != nil {
			return false
		}
	}
	return true
}

func (k *peer) command(words ...string) []string {
	path, err := exec.LookPath(words[0])
	if err != nil {
		k.Fatal(err)
	}
	return append([]string{path}, words[1:]...)
}

func (k *peer) shell(script string) []string {
	return []string{"/bin/sh", "-c", "cd " + k.dir + " && " + script, "sh", strconv.Itoa(k.pid)}
}

func (k *peer) put(name, dir string) {
	path := filepath.Join(dir, name)
	if err := errors.Join(os.Mkdir(path, 0o755), os.Symlink(k.path, filepath.Join(path, "run"))); err != nil {
		k.Fatal(err)
	}
}

func (k *peer) lay(names ...string) {
	for _, name := range names {
		k.put(name, k.dir)
	}
}

func (k *peer) begin() { k.pid = k.spawn(k.out, k.command(append(k.kind.scanner, k.dir)...)...) }

func (k *peer) offer(name string) {
	if err := os.Rename(filepath.Join(k.Work, name), filepath.Join(k.dir, name)); err != nil {
		k.Fatal(err)
	}
	if k.kind.rescan != nil {
		k.run(k.command(append(k.kind.rescan, k.dir)...)...)
	}
}

func (k *peer) settle(int)         { time.Sleep(time.Second) }
func (k *peer) shortest() []string { return k.command(k.kind.tool) }
func (k *peer) stop(name string) []string {
	if k.kind.stop == nil {
		return nil
	}
	return k.command(append(k.kind.stop, filepath.Join(k.dir, name))...)
}
func (k *peer) start(name string) []string {
	return k.command(append(k.kind.start, filepath.Join(k.dir, name))...)
}
func (k *peer) status(count int) []string {
	if count == 1 {
		return nil
	}
	return k.shell(k.kind.status)
}

// Not at the same moment of its five seconds each time.
func (k *peer) breath(sample int) time.Duration {
	return time.Duration(200+sample*370%900) * time.Millisecond
}

func (k *peer) memory() float64 {
	sum := 0
	for _, pid := range k.Processes("") {
		dir := "/proc/" + strconv.Itoa(pid)
		exe, _ := os.Readlink(dir + "/exe")
		if exe == k.path {
			continue
		}
		text, _ := os.ReadFile(dir + "/smaps_rollup")
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
				kB, _ := strconv.Atoi(strings.Fields(rest)[0])
				sum += kB
			}
		}
	}
	return float64(sum) / 1000
}

// end is over when the last service is.
func (k *peer) end(pids []int) float64 {
	begin := rundir.Clock()
	k.run(k.shell(k.kind.ending)...)
	for len(pids) > 0 {
		if k.gone(pids[len(pids)-1]) {
			pids = pids[:len(pids)-1]
			continue
		}
		if rundir.Clock()-begin > patience {
			k.Fatalf("%s: services after its end: %v", k.kind.name, pids)
		}
		time.Sleep(time.Millisecond)
	}
	took := ms(rundir.Clock() - begin)
	k.wait(k.pid)
	return took
}

// gone tells whether a process has ended: some leave zombies behind.
func (k *peer) gone(pid int) bool {
	if unix.Kill(pid, 0) == unix.ESRCH {
		return true
	}
	stat, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return bytes.Contains(stat, []byte(") Z "))
}
