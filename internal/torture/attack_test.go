//go:build linux

package torture

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/load/rig"
	"sysmgr/internal/rundir"
)

// stranger is a user who owns nothing here.
const stranger = 65534

// plant is something that does not belong under a name.
type plant struct {
	what string
	make func(w *world, path string) error
}

func text(s string) func(*world, string) error {
	return func(_ *world, path string) error { return os.WriteFile(path, []byte(s), 0o644) }
}

var plants = []plant{
	{"link-to-file", func(w *world, path string) error { return os.Symlink(w.decoy+"/secret", path) }},
	{"link-to-directory", func(w *world, path string) error { return os.Symlink(w.decoy+"/dir", path) }},
	{"link-to-nowhere", func(w *world, path string) error { return os.Symlink(w.decoy+"/nowhere", path) }},
	{"hard-link", func(w *world, path string) error { return os.Link(w.neighbour(), path) }},
	{"fifo", func(_ *world, path string) error { return unix.Mkfifo(path, 0o666) }},
	{"zeros", func(_ *world, path string) error { return unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) }},
	{"terminal", func(_ *world, path string) error { return unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(5, 0))) }},
	{"directory", func(_ *world, path string) error { return os.Mkdir(path, 0o755) }},
	{"full-directory", func(_ *world, path string) error { return os.MkdirAll(path+"/x/y", 0o755) }},
	{"gigabytes", func(_ *world, path string) error {
		return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, 4<<30))
	}},
	{"nothing", text("")},
	{"zero", text("0\n")},
	{"minus-one", text("-1\n")},
	{"one", text("1\n")},
	{"too-many", text("99999999999\n")},
	{"two-numbers", text("5 6\n")},
	{"nul", text("\x00\x00\x00\x00")},
	{"canary", func(w *world, path string) error {
		return os.WriteFile(path, rundir.PidLine(w.canaries[0].Process.Pid), 0o644)
	}},
	{"group-of-canary", func(w *world, path string) error {
		return os.WriteFile(path, fmt.Appendf(nil, "-%d\n", w.canaries[0].Process.Pid), 0o644)
	}},
}

// neighbour is a file of others on the file system of the run directory.
func (w *world) neighbour() string { return filepath.Join(w.decoys(), "precious") }

// decoys is a tree of others beside the run directory. It must not change
// either.
func (w *world) decoys() string { return filepath.Join(filepath.Dir(w.Rundir), "decoys") }

// plantNeighbours makes that tree, and looks at it again in the end.
func (w *world) plantNeighbours() {
	w.t.Helper()
	for _, dir := range []string{"", "/web", "/web/lock.d"} {
		if err := os.MkdirAll(w.decoys()+dir, 0o755); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, file := range []string{"/precious", "/web/lock", "/web/status", "/web/pid", "/web/control"} {
		if err := os.WriteFile(w.decoys()+file, []byte("precious\n"), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	before := snapshot(w.decoys())
	w.t.Cleanup(func() {
		after := snapshot(w.decoys())
		for path, state := range before {
			if after[path] != state {
				broken(w.t, 14, "%s: got %q, want %q", path, after[path], state)
			}
		}
		if len(after) > len(before) {
			broken(w.t, 14, "there are %d files in %s, want %d", len(after), w.decoys(), len(before))
		}
		os.RemoveAll(w.decoys())
	})
}

// What a compromised service may do to its folder, and root by mistake:
// anything in place of any file, before the daemon starts and while it runs.
// It never signals, writes or deletes what is not its own, never hangs, and
// others do not notice.
func TestAnythingInPlaceOfAnyFileHarmsNobodyElse(t *testing.T) {
	t.Parallel()
	for _, p := range some(plants, 8) {
		try(t, "attack: a file is replaced", p.what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rig.Plain)
			w.plantNeighbours()
			good := w.add("good", "ready")
			names := []string{"good"}
			put := func() {
				for _, file := range stateFiles {
					folder := filepath.Join(w.Rundir, "bad"+file)
					os.MkdirAll(folder, 0o755)
					os.RemoveAll(filepath.Join(folder, file))
					if err := p.make(w, filepath.Join(folder, file)); err != nil {
						t.Skipf("%s: %v", p.what, err)
					}
				}
			}
			w.shaky.Store(true)
			for _, file := range stateFiles {
				w.add("bad"+file, "")
				names = append(names, "bad"+file)
			}
			put()
			w.begin("-t", "2")
			w.watch()
			w.await(good, "start")
			everyVerb := func() {
				var each sync.WaitGroup
				for _, name := range names {
					each.Go(func() {
						patience := "0.5"
						if name == "good" {
							patience = "20"
						}
						for _, verb := range []string{"status", "reload", "restart", "stop", "kill", "start"} {
							if _, _, code := w.Ask("-q", "-w", patience, verb, name); code != 0 && name == "good" {
								t.Errorf("svctl %s good: got exit status %d, want 0", verb, code)
							}
						}
					})
				}
				each.Wait()
			}
			everyVerb()
			put()
			everyVerb()
			put()
			w.crash()
			put()
			w.begin("-t", "2")
			w.await(good, "start")
			put()
			everyVerb()
			w.ask("-q", "status")
			w.endHard(w.Patience)
		})
	}
}

// Names that lead elsewhere are refused by every tool before it touches a
// file.
func TestNamesThatLeadElsewhereTouchNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, rig.Plain)
	w.plantNeighbours()
	good := w.add("good", "ready")
	w.begin()
	w.await(good, "start")
	names := []string{
		"", ".", "..", "/", "//", "./", "../", "a/..", "../..", ".sysmgr", ".sysmgr/", "../.sysmgr", "pid", "web/../..",
		strings.Repeat("x", 256), strings.Repeat("y", 5000), strings.Repeat("../", 1000) + "etc", "a\nb", "a\x1b[31m", "\xff\xfe",
		"../decoys", "../decoys/web/..", w.decoys() + "/.", ".new.1.1", "good\x01",
	}
	before := snapshot(w.Rundir)
	for _, name := range names {
		for _, verb := range []string{"start", "stop", "restart", "once", "kill", "reload", "status", "wait down"} {
			try(t, "attack: names", fmt.Sprintf("svctl %s %.20q", verb, name), func(t *testing.T) {
				_, _, code := w.Ask(append(append([]string{"-q", "-w", "0.2"}, strings.Fields(verb)...), "--", name)...)
				// status of what is not there is "not up".
				if code != 2 && code != 4 && !(verb == "status" && code == 1) {
					t.Errorf("got exit status %d, want 2 or 4", code)
				}
			})
		}
	}
	for _, program := range []string{"sysmgr-depends", "runsyssv"} {
		for _, name := range names {
			try(t, "attack: names", fmt.Sprintf("%s %.20q", program, name), func(t *testing.T) {
				cmd := exec.Command(rig.Program(t, rig.Plain, program), "--", name)
				cmd.Env = w.Environment("SYSMGR_NAME="+name, "SYSMGR_DIR="+w.decoys())
				cmd.Dir = t.TempDir()
				done := make(chan error, 1)
				if err := cmd.Start(); err != nil {
					if strings.ContainsRune(name, 0) {
						t.Skip(err)
					}
					t.Fatal(err)
				}
				go func() { done <- cmd.Wait() }()
				select {
				case <-done:
				case <-time.After(rig.Patience):
					cmd.Process.Kill()
					t.Fatal("it hangs")
				}
				if code := cmd.ProcessState.ExitCode(); code != 1 && code != 2 && code != 4 {
					t.Errorf("got exit status %d, want 1, 2 or 4", code)
				}
			})
		}
	}
	after := snapshot(w.Rundir)
	for path := range after {
		if _, ok := before[path]; !ok {
			broken(t, 14, "%s has been made", path)
		}
	}
	for path := range before {
		if _, ok := after[path]; !ok {
			broken(t, 14, "%s has been removed", path)
		}
	}
	w.daemon.Store(0)
	w.End()
}

// as is a command that another user runs.
func (w *world) as(uid uint32, groups []uint32, program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Env = w.Environment()
	gid := uid
	if len(groups) > 0 {
		gid = groups[0]
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups}}
	return cmd
}

// openWay lets everybody reach the folders of a world.
func (w *world) openWay() {
	for dir := w.top; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		os.Chmod(dir, 0o755)
	}
	os.Chmod(filepath.Dir(w.Rundir), 0o755)
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be somebody else")
	}
	cmd := exec.Command(rig.Program(t, rig.Plain, "svctl"), "-V")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stranger, Gid: stranger}}
	if err := cmd.Run(); err != nil {
		t.Skipf("somebody else cannot run the programs in %s: %v", os.TempDir(), err)
	}
}

// Another user sees everything and changes nothing.
func TestStrangerChangesNothing(t *testing.T) {
	needRoot(t)
	t.Parallel()
	try(t, "attack: another user", "svctl and sh", func(t *testing.T) {
		w := newWorld(t, rig.Plain)
		w.openWay()
		s := w.add("web", "ready")
		w.begin()
		w.watch()
		w.await(s, "start")
		w.Until("a status that repeats that it is ready", func() bool {
			text, _ := os.ReadFile(filepath.Join(w.Rundir, "web", rundir.State))
			return strings.Contains(string(text), "\nready yes\n")
		})
		svctl := rig.Program(t, rig.Plain, "svctl")
		before, leader := snapshot(w.Rundir), w.leaderOf("web")
		for _, verb := range []string{"start", "stop", "restart", "once", "kill", "reload"} {
			cmd := w.as(stranger, nil, svctl, "-q", verb, "web")
			cmd.Run()
			if code := cmd.ProcessState.ExitCode(); code != 6 {
				t.Errorf("svctl %s: got exit status %d, want 6", verb, code)
			}
		}
		script := `cd "$RUNDIR" || exit
			for f in pid status lock control .control .guard ready x; do echo KILL >web/$f; ln -sf /etc/passwd web/$f; rm -f web/$f; done
			rm -rf web; mkdir other; echo 1 >pid; rm pid; ls .sysmgr; cat .sysmgr/*; mv web web2; chmod 777 web . .sysmgr; kill -9 "$(cat pid)" "$(cat web/pid)"`
		out, _ := w.as(stranger, nil, "/bin/sh", "-c", script).CombinedOutput()
		if strings.Contains(string(out), "lock\n") {
			t.Errorf("a stranger reads the daemon's own folder: %s", out)
		}
		if status := w.as(stranger, nil, svctl, "-q", "status", "web"); status.Run() != nil {
			t.Errorf("svctl status: got exit status %d, want 0", status.ProcessState.ExitCode())
		}
		after := snapshot(w.Rundir)
		for path, state := range before {
			if after[path] != state {
				broken(t, 14, "%s: got %q, want %q", path, after[path], state)
			}
		}
		if len(after) != len(before) || w.leaderOf("web") != leader {
			t.Errorf("got %d files and process %d, want %d and %d", len(after), w.leaderOf("web"), len(before), leader)
		}
		// A lock on the file that everybody may read must keep nobody out.
		for _, how := range []string{"-x", "-s"} {
			cmd := w.as(stranger, nil, "/bin/sh", "-c", "flock "+how+" 0; exec sleep 1000")
			cmd.Stdin, _ = os.Open(filepath.Join(w.Rundir, "pid"))
			cmd.Env = []string{"PATH=/usr/bin:/bin"}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { cmd.Process.Kill(); cmd.Wait() }()
		}
		w.crash()
		w.begin()
		w.converge(4)
		w.checkAfterCrash()
		w.daemon.Store(0)
		w.End()
	})
}

// A member of a group that may control a service may control that service,
// and nothing else: whatever it writes there.
func TestDelegatedMemberCannotReachBeyondItsService(t *testing.T) {
	needRoot(t)
	t.Parallel()
	const group = 64123
	try(t, "attack: a delegated group member", "forges everything", func(t *testing.T) {
		w := newWorld(t, rig.Plain)
		w.openWay()
		w.plantNeighbours()
		os.Chmod(w.decoys(), 0o755)
		web, other := w.add("web", "ready"), w.add("other", "ready")
		w.begin("-t", "2")
		w.watch()
		w.await(web, "start")
		w.await(other, "start")
		folder := filepath.Join(w.Rundir, "web")
		if err := errors.Join(os.Chown(folder, 0, group), os.Chmod(folder, 0o775)); err != nil {
			t.Fatal(err)
		}
		leader := w.leaderOf("other")
		w.tampered.Store("web", true)
		web.touched = true // its last request may be one to kill it
		canary := w.canaries[0].Process.Pid
		forge := fmt.Sprintf(`cd "$RUNDIR/web" || exit 1
			i=0
			while [ $i -lt %[4]d ]; do
				i=$((i+1))
				for n in %[1]d -%[1]d 1 0 -1 %[2]d $$; do
					for f in pid syspid; do echo $n >.f; mv -f .f $f; done
					printf 'phase up\nwanted up\npid %%s\nsince x\nclock 1\n' $n >.f; mv -f .f status
					printf 'signal KILL\n' >.f; mv -f .f control
				done
				ln -sfn %[3]s/secret .guard; ln -sfn %[3]s/secret .control; ln -sfn %[3]s/dir control; ln -sfn %[3]s/secret status
				ln -sfn %[3]s/secret stop-timeout; ln -sfn ../other/control control; ln -f ../other/status .guard
				ln -sfn ../other/lock lock; rm -f lock status pid; mkfifo control; mkfifo lock; mkfifo .guard; rm -f lock .guard control
				for k in 1 2 3 4 5 6 7 8 9; do ln -sfn %[3]s/secret .new.%[2]d.$((i*9+k)); done
				echo HUP >stop-signal; echo 9 >stop-signal; echo x >stop-timeout
			done`, canary, w.Daemon.Pid, w.decoy, choose(15, 60, 60))
		// A FIFO that nobody reads keeps the shell for ever: it ends by itself.
		cmd := w.as(stranger, []uint32{group}, "timeout", "20", "/bin/sh", "-c", forge)
		done := make(chan struct{})
		go func() { cmd.Run(); close(done) }()
		for busy := true; busy; {
			select {
			case <-done:
				busy = false
			case <-time.After(100 * time.Millisecond):
			}
			w.ask("-q", "status", "other")
		}
		if now := w.leaderOf("other"); now != leader {
			t.Errorf("other: got process %d, want %d", now, leader)
		}
		if p, ok := readProcess(w.Daemon.Pid); !ok || p.state == 'Z' {
			t.Fatal("the daemon is dead")
		}
		w.crash()
		w.begin("-t", "2")
		w.await(other, "start")
		w.checkAfterCrash()
		w.Must("restart", "other")
		w.endHard(w.Patience)
	})
}

// A process that says it is a service, by its environment, is none.
func TestProcessThatClaimsToBeAServiceIsNotTakenOver(t *testing.T) {
	t.Parallel()
	for _, who := range []struct {
		what string
		uid  uint32
	}{{"of another user", stranger}, {"of root", 0}} {
		try(t, "attack: a process claims to be a service", who.what, func(t *testing.T) {
			t.Parallel()
			if who.uid != 0 {
				needRoot(t)
			}
			w := newWorld(t, rig.Plain)
			w.openWay()
			web, held := w.add("web", "ready"), w.add("held", "ready")
			w.begin()
			w.watch()
			w.await(web, "start")
			w.order(held, "stop")
			impostor := func(name string) int {
				songs := filepath.Join(w.top, "songs-"+name)
				os.WriteFile(songs, nil, 0o666)
				os.Chmod(songs, 0o666)
				pid := w.canaryWith(name, songs, who.uid, "SYSDIR="+w.Sysdir, "RUNDIR="+w.Rundir, "SYSMGR_NAME="+name,
					"SYSMGR_DIR="+filepath.Join(w.Rundir, name))
				return pid
			}
			first := impostor("web")
			w.crash()
			w.Kill(web.leader)
			web.touched = true
			second := impostor("web")
			impostor("held")
			impostor("nothing")
			w.begin()
			w.converge(4)
			w.checkAfterCrash()
			if v, _, _ := w.view("web"); v.Pid == first || v.Pid == second {
				t.Errorf("web is taken to be process %d, which only says so", v.Pid)
			}
			w.order(web, "stop")
			w.daemon.Store(0)
			w.End()
		})
	}
}

// A number that has found a new owner while there was no daemon.
func TestRecycledNumberIsNeitherTakenOverNorSignalled(t *testing.T) {
	needRoot(t)
	const last = "/proc/sys/kernel/ns_last_pid"
	if _, err := os.Stat(last); err != nil || os.Getpid() > 1000 {
		t.Skipf("%s is not ours to write to", last)
	}
	for _, verb := range []string{"start", "stop", "once"} {
		try(t, "attack: a recycled number", verb, func(t *testing.T) {
			w := newWorld(t, rig.Plain)
			web := w.add("web", "ready child")
			w.begin()
			w.await(web, "start")
			if verb == "once" {
				w.order(web, "once")
			}
			w.crash()
			pid := web.leader
			web.touched = true
			for _, p := range w.Processes("web") {
				w.Kill(p)
			}
			w.gone(pid)
			if verb == "stop" {
				os.WriteFile(filepath.Join(w.Rundir, "web", "lock"), []byte("KILL\n"), 0o644)
				web.want = "stop"
			}
			if !w.recycle(pid, last) {
				t.Skipf("number %d could not be had again", pid)
			}
			w.watch()
			w.begin()
			if verb == "once" {
				web.maybe = []string{"stop"} // it has ended, and must not be started again
				web.want = "stop"
			}
			w.converge(4)
			if v, _, _ := w.view("web"); v.Pid == pid {
				t.Errorf("web is taken to be process %d, which is a stranger", pid)
			}
			w.order(web, "kill")
			w.daemon.Store(0)
			w.End()
		})
	}
}

// gone waits until nobody has a number any more.
func (w *world) gone(pid int) {
	w.t.Helper()
	for deadline := time.Now().Add(rig.Patience); ; time.Sleep(5 * time.Millisecond) {
		if _, ok := readProcess(pid); !ok && unix.Kill(-pid, 0) == unix.ESRCH {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("process %d is still there", pid)
		}
	}
}

// recycle starts a canary that has this number.
func (w *world) recycle(pid int, last string) bool {
	for range 200 {
		if os.WriteFile(last, []byte(strconv.Itoa(pid-1)), 0) != nil {
			return false
		}
		cmd := exec.Command(rig.Program(w.t, rig.Plain, "victim"))
		cmd.Env = []string{"VICTIM_CANARY=" + w.songs, "VICTIM_NAME=recycled"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if cmd.Start() != nil {
			continue
		}
		if cmd.Process.Pid == pid {
			w.keep(cmd)
			w.listens("recycled", w.songs, pid)
			return true
		}
		cmd.Process.Kill()
		cmd.Wait()
	}
	return false
}

// A run directory that others could have made or can change is refused, with
// a reason.
func TestRunDirectoryOfOthersIsRefused(t *testing.T) {
	needRoot(t)
	t.Parallel()
	for what, prepare := range map[string]func(w *world) string{
		"of another user": func(w *world) string {
			os.Mkdir(w.Rundir, 0o755)
			os.Chown(w.Rundir, stranger, stranger)
			return w.Rundir
		},
		"writable by everybody": func(w *world) string {
			os.Mkdir(w.Rundir, 0o755)
			os.Chmod(w.Rundir, 0o777)
			return w.Rundir
		},
		"writable by a group": func(w *world) string {
			os.Mkdir(w.Rundir, 0o755)
			os.Chmod(w.Rundir, 0o775)
			return w.Rundir
		},
		"sticky and writable by everybody": func(w *world) string {
			os.Mkdir(w.Rundir, 0o755)
			os.Chmod(w.Rundir, os.ModeSticky|0o777)
			return w.Rundir
		},
		"a link": func(w *world) string {
			real := filepath.Join(w.decoy, "dir")
			os.Symlink(real, w.Rundir)
			return w.Rundir
		},
		"in a parent that everybody may write to": func(w *world) string {
			os.Mkdir(filepath.Join(w.top, "open"), 0o755)
			os.Chmod(filepath.Join(w.top, "open"), 0o777)
			return filepath.Join(w.top, "open", "run")
		},
		"in a parent of another user": func(w *world) string {
			os.Mkdir(filepath.Join(w.top, "open"), 0o755)
			os.Chown(filepath.Join(w.top, "open"), stranger, stranger)
			return filepath.Join(w.top, "open", "run")
		},
		"a file": func(w *world) string {
			os.WriteFile(w.Rundir, []byte("x"), 0o644)
			return w.Rundir
		},
		"with a folder of another user's in it": func(w *world) string {
			os.MkdirAll(w.Rundir+"/.sysmgr", 0o755)
			os.Chown(w.Rundir+"/.sysmgr", stranger, stranger)
			return w.Rundir
		},
		"with a link to a folder in it": func(w *world) string {
			os.MkdirAll(w.Rundir, 0o755)
			os.Symlink(w.decoy+"/empty", w.Rundir+"/.sysmgr")
			return w.Rundir
		},
	} {
		try(t, "attack: the run directory", what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, rig.Plain)
			w.openWay()
			w.add("web", "")
			w.Rundir = prepare(w)
			w.Launch(nil)
			select {
			case <-w.Ended():
			case <-time.After(3 * time.Second):
				t.Fatalf("it works in a run directory %s", what)
			}
			out, _ := os.ReadFile(w.Log)
			if code := w.State().ExitCode(); code != 1 || !strings.Contains(string(out), "sysmgr: ") || !strings.Contains(string(out), w.Rundir) {
				t.Errorf("got %v and %q, want exit status 1 and the reason", w.State(), out)
			}
		})
	}
}

// Services that forge whom they wait for keep sysmgr-depends neither busy for
// ever nor beyond its time.
func TestForgedWaitingKeepsNobodyBusy(t *testing.T) {
	t.Parallel()
	try(t, "attack: forged waiting", "all wait for all", func(t *testing.T) {
		w := newWorld(t, rig.Plain)
		const count = 24
		var names []string
		for i := range count {
			names = append(names, fmt.Sprintf("s%02d", i))
			w.add(names[i], "ready")
		}
		w.begin()
		w.watch()
		w.converge(4)
		for _, name := range names {
			text := strings.Join(names, "\n") + "\n\x1b[31mred\n../x\n"
			if err := os.WriteFile(filepath.Join(w.Rundir, name, "waiting"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		self := w.add("self", "ready")
		w.await(self, "start")
		cmd := exec.Command(rig.Program(t, rig.Plain, "sysmgr-depends"), "-w", "0.5", "s00")
		cmd.Env = w.Environment("SYSMGR_NAME=self", "SYSMGR_DIR="+filepath.Join(w.Rundir, "self"))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case <-done:
			if code := cmd.ProcessState.ExitCode(); code != 3 {
				t.Errorf("sysmgr-depends: got exit status %d, want 3", code)
			}
		case <-time.After(rig.Patience):
			cmd.Process.Kill()
			<-done
			broken(t, 12, "sysmgr-depends -w 0.5 is still busy")
		}
		out, _ := w.Svctl("status")
		if strings.ContainsFunc(out, func(r rune) bool { return r < ' ' && r != '\n' }) {
			t.Errorf("svctl status: got %q, want nothing that moves a cursor", out)
		}
		w.finish()
	})
}
