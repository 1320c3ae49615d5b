//go:build linux

package torture

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/load/rig"
	"sysmgr/internal/rundir"
)

// laws are what has to hold, whatever happens.
var laws = [...]string{
	1:  "never two live copies of a service",
	2:  "stop or kill with exit 0: leader and group are gone and stay gone",
	3:  "held survives SIGKILL of the daemon",
	4:  "at rest everything not held is up or in announced back-off",
	5:  "start with exit 0: it was up after the call began",
	6:  "once: at most one start for each request",
	7:  "restart: a new process, the old one gone first",
	8:  "no zombie older than 500 ms",
	9:  "SIGKILL of the daemon: zero restarts, adoption within 1 s",
	10: "a pid file is a live leader or absent, never empty",
	11: "no signal reaches a process we did not start",
	12: "svctl and TERM are answered within 1 s",
	13: "after 10,000 cycles descriptors, goroutines and threads are where they began",
	14: "nothing outside RUNDIR changes",
	15: "lifted faults: full convergence without restarting the daemon",
}

// How long things may take.
const (
	convergence = 35 * time.Second       // from the end of the faults to rest
	zombieAge   = 500 * time.Millisecond // law 8
	adoption    = time.Second            // law 9
	answerTime  = time.Second            // law 12
)

// world is one daemon, its services and its witnesses.
type world struct {
	*rig.Rig
	t     testing.TB
	top   string // everything of this world is in here
	decoy string // a tree that must not change
	songs string // what the canaries heard

	mu       sync.Mutex // guards what follows
	services map[string]*service

	daemon   atomic.Int64 // the process that watchers look at; 0: none now
	lenient  bool         // an order may come to nothing, if svctl says so
	tampered sync.Map     // names of services whose files were written to by others
	shaky    atomic.Bool  // the run directory is being broken: its files prove nothing
	pace     atomic.Pointer[pacer]
	rest     time.Duration // how long rest may take to come: convergence

	canaries  []*exec.Cmd
	songbooks []string          // all the files that canaries write to
	before    map[string]string // of the decoy tree
	stop      chan struct{}
	watchers  sync.WaitGroup
}

// service is what is known of one service.
type service struct {
	name string
	calm bool // it does not end by itself: law 9 can be held against it

	mu      sync.Mutex
	want    string        // start, stop, kill, once: the last order that was acknowledged; gone: its entry is no more
	maybe   []string      // orders since then whose outcome nobody knows
	held    time.Duration // since when it is held for sure, by rundir.Clock; 0: it is not
	onces   int           // requests of once since it was last down
	touched bool          // its process was killed, or its folder was tampered with
	leader  int           // as it was when the daemon died
	starts  int           // and how often it had been started

	suspect atomic.Bool // something is wrong with it
}

func newWorld(t testing.TB, build rig.Build) *world {
	t.Helper()
	w := &world{Rig: rig.New(t, build), t: t, services: make(map[string]*service), rest: convergence, stop: make(chan struct{})}
	w.top = filepath.Dir(w.Work)
	w.songs = filepath.Join(w.top, "songs")
	w.Patience = convergence
	w.pace.Store(&pace)
	pace.set(idleWait, func() *exec.Cmd { return waiter(t) })
	w.plantDecoy()
	t.Cleanup(w.witnesses)
	w.canary("canary")
	return w
}

// watch begins to watch the laws that are about each moment.
func (w *world) watch() {
	for _, do := range []func(){w.watchPidFiles, w.watchZombies} {
		w.watchers.Go(do)
	}
}

// witnesses asks those that saw everything: the last that is done in a world.
func (w *world) witnesses() {
	close(w.stop)
	w.watchers.Wait()
	for _, name := range w.doubles() {
		if s := w.known(name); s != nil {
			s.suspect.Store(true)
		}
		broken(w.t, 1, "%s: processes %v were started beside another copy", name, w.Journalled("DUP", name))
	}
	w.hearCanaries()
	w.compareDecoy()
	if w.t.Failed() {
		w.tellStories()
	}
	for _, cmd := range w.canaries {
		cmd.Process.Kill()
		cmd.Wait()
	}
}

// tellStories prints what the daemons and the victims wrote about the services
// that something was found wrong with.
func (w *world) tellStories() {
	log, _ := os.ReadFile(w.Log)
	for _, s := range w.all() {
		if !s.suspect.Load() {
			continue
		}
		var story []string
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, `"service": "`+s.name+`"`) || strings.Contains(line, "sysmgr started") {
				story = append(story, line)
			}
		}
		for _, line := range w.Journal() {
			if line[1] == s.name {
				story = append(story, strings.Join(line, " ")+"\n")
			}
		}
		w.t.Logf("the story of %s:\n%s", s.name, strings.Join(story[max(0, len(story)-60):], ""))
	}
}

// doubles are the services that were found to run twice.
func (w *world) doubles() (names []string) {
	for _, line := range w.Journal() {
		if line[0] == "DUP" && !slices.Contains(names, line[1]) {
			names = append(names, line[1])
		}
	}
	return names
}

// service makes a service known, and says how it is to live.
func (w *world) service(name, plan string) *service {
	s := &service{name: name, want: "start"}
	life := strings.Contains(plan, "life=") || strings.Contains(plan, "wild=") || strings.Contains(plan, "seed=")
	s.calm = !life
	w.mu.Lock()
	w.services[name] = s
	w.mu.Unlock()
	w.Plan(name, plan)
	return s
}

// add is service, and its entry.
func (w *world) add(name, plan string) *service {
	s := w.service(name, plan)
	w.Link(name, rig.Program(w.t, rig.Plain, "victim"))
	return s
}

func (w *world) all() []*service {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*service
	for _, s := range w.services {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b *service) int { return strings.Compare(a.name, b.name) })
	return out
}

// --- Law 11: canaries.

// canary starts a stranger: a process that leads a session, as services do,
// and counts the signals that it gets.
func (w *world) canary(name string) int {
	w.t.Helper()
	return w.canaryWith(name, w.songs, 0)
}

// canaryWith is canary, of another user perhaps, and with an environment.
func (w *world) canaryWith(name, songs string, uid uint32, env ...string) int {
	w.t.Helper()
	cmd := exec.Command(rig.Program(w.t, rig.Plain, "victim"))
	cmd.Env = append(env, "VICTIM_CANARY="+songs, "VICTIM_NAME="+name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.keep(cmd)
	w.listens(name, songs, cmd.Process.Pid)
	return cmd.Process.Pid
}

// keep sees to the end of a canary.
func (w *world) keep(cmd *exec.Cmd) { w.canaries = append(w.canaries, cmd) }

// listens waits until a canary does.
func (w *world) listens(name, songs string, pid int) {
	w.t.Helper()
	if !slices.Contains(w.songbooks, songs) {
		w.songbooks = append(w.songbooks, songs)
	}
	first := fmt.Sprintf("%s %d 0\n", name, pid)
	for deadline := time.Now().Add(rig.Patience); !strings.Contains(w.heard(), first); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("canary %s does not sing", name)
		}
	}
}

func (w *world) heard() string {
	var all []byte
	for _, songs := range w.songbooks {
		text, _ := os.ReadFile(songs)
		all = append(all, text...)
	}
	return string(all)
}

func (w *world) hearCanaries() {
	w.t.Helper()
	for line := range strings.Lines(w.heard()) {
		if f := strings.Fields(line); len(f) == 3 && f[2] != "0" {
			n, _ := strconv.Atoi(f[2])
			broken(w.t, 11, "canary %s, process %s, got %s", f[0], f[1], rundir.SignalName(unix.Signal(n)))
		}
	}
	for _, cmd := range w.canaries {
		if p, ok := readProcess(cmd.Process.Pid); !ok || p.state == 'Z' {
			broken(w.t, 11, "canary %d is dead", cmd.Process.Pid)
		}
	}
}

// --- Law 14: a decoy tree.

func (w *world) plantDecoy() {
	w.decoy = filepath.Join(w.top, "decoy")
	for _, dir := range []string{"", "/dir", "/dir/web", "/empty"} {
		os.Mkdir(w.decoy+dir, 0o755)
	}
	for _, file := range []string{"/lock", "/pid", "/status", "/control", "/dir/file", "/dir/web/lock", "/secret"} {
		if err := os.WriteFile(w.decoy+file, []byte("precious\n"), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	os.Symlink("dir/file", w.decoy+"/link")
	w.before = snapshot(w.decoy)
}

func (w *world) compareDecoy() {
	w.t.Helper()
	after := snapshot(w.decoy)
	for path, state := range w.before {
		if after[path] != state {
			broken(w.t, 14, "%s: got %q, want %q", path, after[path], state)
		}
	}
	for path := range after {
		if _, ok := w.before[path]; !ok {
			broken(w.t, 14, "%s is new", path)
		}
	}
}

// snapshot is what a tree is like: everything but access times. Hard links
// that an attacker makes change the count and the time of a change, so the
// files themselves are compared by what matters.
func snapshot(top string) map[string]string {
	out := make(map[string]string)
	filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			return nil
		}
		text := ""
		if d.Type().IsRegular() {
			data, _ := os.ReadFile(path)
			text = string(data)
		}
		out[path] = fmt.Sprintf("%d:%d %o %d:%d %d %s", st.Dev, st.Ino, st.Mode, st.Uid, st.Gid, st.Mtim.Nano(), text)
		return nil
	})
	return out
}

// --- What /proc says.

// process is what /proc/<pid>/stat says (proc_pid_stat(5)).
type process struct {
	state  byte
	parent int
	group  int
	start  string
}

func readProcess(pid int) (p process, ok bool) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return p, false
	}
	f := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(f) < 20 {
		return p, false
	}
	p.state, p.start = f[0][0], string(f[19])
	p.parent, _ = strconv.Atoi(string(f[1]))
	p.group, _ = strconv.Atoi(string(f[2]))
	return p, true
}

// alive tells whether a process runs.
func alive(pid int) bool {
	p, ok := readProcess(pid)
	return ok && p.state != 'Z' && p.state != 'X'
}

// pids lists the processes that there are.
func pids() []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	var out []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// leaderOf is the main process of a service that lives, 0 if there is none.
func (w *world) leaderOf(name string) int {
	started := w.Journalled("start", name)
	for _, pid := range slices.Backward(started) {
		if alive(pid) && w.Owns(pid, name) {
			return pid
		}
	}
	return 0
}

// startsSince counts the starts of a service after a moment.
func (w *world) startsSince(name string, since time.Duration) (count int) {
	for _, line := range w.Journal() {
		if line[0] == "start" && line[1] == name && len(line) > 3 {
			if at, _ := strconv.ParseInt(line[3], 10, 64); time.Duration(at) > since {
				count++
			}
		}
	}
	return count
}

// --- Law 8: zombies.

func (w *world) watchZombies() {
	type identity struct {
		pid   int
		start string
	}
	seen := make(map[identity]time.Time)
	told := make(map[identity]bool)
	for w.sleep(100 * time.Millisecond) {
		now := time.Now()
		daemon := int(w.daemon.Load())
		if p, ok := readProcess(daemon); daemon == 0 || !ok || p.state == 'T' || p.state == 't' || p.state == 'Z' {
			clear(seen) // nobody there to reap
			continue
		}
		there := make(map[identity]bool)
		for _, pid := range pids() {
			p, ok := readProcess(pid)
			if !ok || p.state != 'Z' || p.parent != daemon {
				continue
			}
			id := identity{pid, p.start}
			there[id] = true
			if seen[id].IsZero() {
				seen[id] = now
			}
			if age := now.Sub(seen[id]); age > zombieAge && !told[id] && age > zombieAge+w.lag(seen[id]) && int(w.daemon.Load()) == daemon {
				told[id] = true
				broken(w.t, 8, "process %d is a zombie for %s, a program that does nothing took %s", pid, age, w.lag(seen[id])/patience)
			}
		}
		for id := range seen {
			if !there[id] {
				delete(seen, id)
			}
		}
	}
}

// sleep waits a little and tells whether the world is still there.
func (w *world) sleep(d time.Duration) bool {
	select {
	case <-w.stop:
		return false
	case <-time.After(d):
		return true
	}
}

// --- Law 10: pid files.

func (w *world) watchPidFiles() {
	told := make(map[string]bool)
	for w.sleep(4 * time.Millisecond) {
		for _, s := range w.all() {
			for _, file := range []string{rundir.Pid, rundir.Syspid} {
				if _, tampered := w.tampered.Load(s.name); tampered || w.shaky.Load() {
					break
				}
				path := filepath.Join(w.Rundir, s.name, file)
				data, err := os.ReadFile(path)
				if err != nil {
					continue
				}
				if _, err := rundir.ParsePid(data); (err != nil || !bytes.HasSuffix(data, []byte("\n"))) && !told[path] && !w.shaky.Load() {
					if _, tampered := w.tampered.Load(s.name); tampered {
						break
					}
					told[path] = true
					broken(w.t, 10, "%s: got %q, want a number and a newline", path, data)
				}
			}
		}
	}
}

// checkPidFiles holds the pid files against /proc, at rest.
func (w *world) checkPidFiles(s *service) (problem string) {
	for _, file := range []string{rundir.Pid, rundir.Syspid} {
		path := filepath.Join(w.Rundir, s.name, file)
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		pid, err := rundir.ParsePid(data)
		if err != nil {
			return fmt.Sprintf("%s: got %q", path, data)
		}
		if !alive(pid) || !w.Owns(pid, s.name) {
			return fmt.Sprintf("%s: got %d, which is not alive or not of this service", path, pid)
		}
	}
	return ""
}
