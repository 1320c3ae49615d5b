//go:build linux

package torture

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/load/rig"
	"sysmgr/internal/rundir"
)

// listener is a test that writes down what it is accused of, instead of
// failing of it.
type listener struct {
	testing.TB
	mu   sync.Mutex
	said []string
}

func (l *listener) Errorf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = append(l.said, fmt.Sprintf(format, args...))
}

func (l *listener) Failed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.said) > 0
}

// charges are the laws that have been found broken.
func (l *listener) charges() (list []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.said {
		var law int
		if _, err := fmt.Sscanf(line, "law %d ", &law); err == nil && !slices.Contains(list, law) {
			list = append(list, law)
		}
	}
	return list
}

// fake is a world without a daemon, in which a law is to be broken. It plays
// the daemon itself.
type fake struct {
	*world
	told *listener
}

// victim starts a process that says it is one of a service, and returns when
// it is journalled under a word.
func (f *fake) victim(name, word string) *exec.Cmd {
	f.told.Helper()
	cmd := exec.Command(rig.Program(f.t, rig.Plain, "victim"))
	cmd.Env = f.Environment("SYSMGR_NAME="+name, "SYSMGR_DIR="+filepath.Join(f.Rundir, name))
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	f.until(func() bool { return slices.Contains(f.Journalled(word, name), cmd.Process.Pid) })
	return cmd
}

func (f *fake) until(condition func() bool) {
	f.told.Helper()
	for deadline := time.Now().Add(rig.Patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatal("time ran out")
		}
	}
}

// put writes a file into the folder of a service.
func (f *fake) put(name, file, content string) {
	f.told.Helper()
	folder := filepath.Join(f.Rundir, name)
	os.MkdirAll(folder, 0o755)
	if err := os.WriteFile(filepath.Join(folder, file), []byte(content), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// status says in a service's folder that it is in a phase.
func (f *fake) status(name, phase string) {
	f.put(name, rundir.State, "phase "+phase+"\nwanted "+phase+"\nclock 1\n")
}

// within is how long to wait for an objection: long, if there has to be one.
func (f *fake) within(guilty bool, innocent time.Duration) time.Duration {
	if guilty {
		return rig.Patience
	}
	return innocent
}

// crimes are worlds in which one law is broken, and, before they are broken,
// nothing is wrong.
var crimes = []struct {
	what string
	law  int
	do   func(f *fake, s *service, guilty bool)
}{
	{"two copies", 1, func(f *fake, s *service, guilty bool) {
		f.victim("web", "start")
		if guilty {
			f.victim("web", "DUP")
		}
	}},
	{"a process after stop", 2, func(f *fake, s *service, guilty bool) {
		if guilty {
			f.victim("web", "start")
		}
		f.done(s, "stop", 0, 0)
	}},
	{"a held service is started", 3, func(f *fake, s *service, guilty bool) {
		s.want, s.held = "stop", rundir.Clock()
		if guilty {
			f.victim("web", "start")
		}
		f.checkAfterCrash()
	}},
	{"nobody keeps a service alive", 4, func(f *fake, s *service, guilty bool) {
		s.want = "stop"
		if guilty {
			s.want = "start"
		}
		f.status("web", rundir.Down)
		f.converge(4)
	}},
	{"start without a start", 5, func(f *fake, s *service, guilty bool) {
		if !guilty {
			f.victim("web", "start")
		}
		f.done(s, "start", rundir.Clock(), 0)
	}},
	{"two starts for one once", 6, func(f *fake, s *service, guilty bool) {
		s.want, s.calm, s.onces = "once", false, 1
		first := f.victim("web", "start")
		first.Process.Kill()
		first.Wait()
		if guilty {
			f.victim("web", "start")
		}
		f.checkAfterCrash()
	}},
	{"restart that is none", 7, func(f *fake, s *service, guilty bool) {
		old := f.victim("web", "start")
		if !guilty {
			old.Process.Kill()
			old.Wait()
			f.victim("web", "start")
		}
		f.done(s, "restart", 0, old.Process.Pid)
	}},
	{"restart with the old one beside it", 7, func(f *fake, s *service, guilty bool) {
		old := f.victim("web", "start")
		os.Remove(filepath.Join(f.Work, "web.live"))
		if !guilty {
			old.Process.Kill()
			old.Wait()
		}
		f.victim("web", "start")
		f.done(s, "restart", 0, old.Process.Pid)
	}},
	{"a zombie", 8, func(f *fake, s *service, guilty bool) {
		cmd := exec.Command("true")
		if err := cmd.Start(); err != nil {
			f.t.Fatal(err)
		}
		defer cmd.Wait()
		f.daemon.Store(int64(os.Getpid()))
		f.until(func() bool { return !alive(cmd.Process.Pid) })
		if !guilty {
			cmd.Wait()
		}
		f.watch()
		for begin := time.Now(); !f.told.Failed() && time.Since(begin) < f.within(guilty, zombieAge); {
			time.Sleep(10 * time.Millisecond)
		}
	}},
	{"another process after a crash", 9, func(f *fake, s *service, guilty bool) {
		old := f.victim("web", "start")
		f.died()
		if guilty {
			old.Process.Kill()
			old.Wait()
			f.victim("web", "start")
		}
		f.checkAfterCrash()
	}},
	{"a late successor", 9, func(f *fake, s *service, guilty bool) {
		begun := time.Now()
		if guilty {
			begun = begun.Add(-time.Hour)
		}
		f.adopted(begun)
	}},
	{"an empty pid file", 10, func(f *fake, s *service, guilty bool) {
		f.put("web", rundir.Pid, "5\n")
		f.watch()
		if guilty {
			f.put("web", rundir.Pid, "")
		}
		for begin := time.Now(); !f.told.Failed() && time.Since(begin) < f.within(guilty, 50*time.Millisecond); {
			time.Sleep(time.Millisecond)
		}
	}},
	{"a pid file without a process", 4, func(f *fake, s *service, guilty bool) {
		f.status("web", rundir.Down)
		s.want = "stop"
		if guilty {
			f.put("web", rundir.Pid, strconv.Itoa(os.Getpid())+"\n")
		}
		f.converge(4)
	}},
	{"a signal to a stranger", 11, func(f *fake, s *service, guilty bool) {
		if guilty {
			unix.Kill(f.canaries[0].Process.Pid, unix.SIGUSR1)
			f.until(func() bool { return strings.Count(f.world.heard(), "\n") > 1 })
		}
	}},
	{"death of a stranger", 11, func(f *fake, s *service, guilty bool) {
		if guilty {
			f.canaries[0].Process.Kill()
			f.until(func() bool { return !alive(f.canaries[0].Process.Pid) })
		}
	}},
	{"a late answer", 12, func(f *fake, s *service, guilty bool) {
		asked := time.Now()
		if guilty {
			asked = asked.Add(-time.Hour)
		}
		f.answered("nobody", asked, answerTime)
	}},
	{"descriptors that are left", 13, func(f *fake, s *service, guilty bool) {
		f.Daemon, _ = os.FindProcess(os.Getpid())
		before, after := f.Usage(), f.Usage()
		f.Daemon = nil
		after.Descriptors, after.Threads, after.PSS = before.Descriptors, before.Threads, before.PSS
		if guilty {
			after.Descriptors++
		}
		f.leaks(before, after)
	}},
	{"threads that are left", 13, func(f *fake, s *service, guilty bool) {
		after := rig.Usage{Threads: 24}
		if guilty {
			after.Threads++
		}
		f.leaks(rig.Usage{Threads: 20}, after)
	}},
	{"memory that is left", 13, func(f *fake, s *service, guilty bool) {
		after := rig.Usage{PSS: 9000}
		if guilty {
			after.PSS = 13000
		}
		f.leaks(rig.Usage{PSS: 8000}, after)
	}},
	{"a file of others is written to", 14, func(f *fake, s *service, guilty bool) {
		if guilty {
			os.WriteFile(filepath.Join(f.decoy, "pid"), []byte("5\n"), 0o600)
		}
	}},
	{"a file of others is removed", 14, func(f *fake, s *service, guilty bool) {
		if guilty {
			os.Remove(filepath.Join(f.decoy, "dir", "web", "lock"))
		}
	}},
	{"a file is made among those of others", 14, func(f *fake, s *service, guilty bool) {
		if guilty {
			os.WriteFile(filepath.Join(f.decoy, "empty", "new"), nil, 0o600)
		}
	}},
	{"no convergence", 15, func(f *fake, s *service, guilty bool) {
		s.want = "stop"
		f.status("web", rundir.Down)
		if guilty {
			f.put("web", rundir.State, "")
		}
		f.converge(15)
	}},
	{"no convergence after chaos", 15, func(f *fake, s *service, guilty bool) {
		c := &chaos{world: f.world, names: []string{"web"}}
		f.status("web", rundir.Down)
		if !guilty {
			f.put("web", rundir.Lock, "TERM\n")
		}
		c.settle()
	}},
}

// Who holds the laws against a daemon objects when one is broken, and to that
// one alone; and not before.
func TestBrokenLawIsObjectedTo(t *testing.T) {
	t.Parallel()
	for _, c := range crimes {
		for _, guilty := range []bool{false, true} {
			t.Run(fmt.Sprintf("law %d: %s: %v", c.law, c.what, guilty), func(t *testing.T) {
				t.Parallel()
				heard := &listener{TB: t}
				var want []int
				if guilty {
					want = []int{c.law}
				}
				// It is run when the world has ended, and its witnesses have been asked.
				t.Cleanup(func() {
					if got := heard.charges(); !slices.Equal(got, want) {
						t.Errorf("got objections to laws %v, want %v: %q", got, want, heard.said)
					}
				})
				f := &fake{newWorld(heard, rig.Plain), heard}
				f.world.rest = 300 * time.Millisecond
				if err := os.MkdirAll(f.Rundir, 0o755); err != nil {
					t.Fatal(err)
				}
				c.do(f, f.service("web", ""), guilty)
			})
		}
	}
	// None is left out.
	for law := 1; law < len(laws); law++ {
		if !slices.ContainsFunc(crimes, func(c struct {
			what string
			law  int
			do   func(*fake, *service, bool)
		}) bool {
			return c.law == law
		}) {
			t.Errorf("law %d (%s) is not broken in any of these worlds", law, laws[law])
		}
	}
}
