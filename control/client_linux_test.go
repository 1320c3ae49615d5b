//go:build linux

package control

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/rundir"
)

// daemon is a fake one: it takes requests and writes statuses, and what a
// request does to a service is up to the test.
type daemon struct {
	*world
	sysdir string

	mu     sync.Mutex
	status map[string]*rundir.Status
	act    func(s *rundir.Status, m Message) // called with mu held; nil: the request is taken
}

// serve makes a daemon with services that are up.
func serve(t *testing.T, names ...string) *daemon {
	t.Helper()
	w := newWorld(t)
	d := &daemon{world: w, sysdir: t.TempDir(), status: make(map[string]*rundir.Status)}
	w.control.config.Deliver = d.take
	claim, err := w.dir.Claim()
	w.must(err)
	t.Cleanup(func() { claim.Release() })
	w.run()
	for _, name := range names {
		w.must(os.WriteFile(filepath.Join(d.sysdir, name), nil, 0o755))
		d.set(name, func(s *rundir.Status) { s.Phase, s.Wanted, s.Clock = rundir.Up, "up", rundir.Clock() })
		w.control.Attend(name)
	}
	return d
}

// take answers a request in the status, as an actor does.
func (d *daemon) take(m Message) {
	if m.Said || m.Request.Verb == Released {
		return // nothing was asked for
	}
	d.deliver(m)
	d.set(m.Service, func(s *rundir.Status) {
		if m.Request.ID != "" {
			s.Requests = append([]string{m.Request.ID}, s.Requests[:min(len(s.Requests), rundir.KeptRequests-1)]...)
		}
		if m.Refused != "" {
			s.Refused = m.Request.ID + " " + m.Refused
		} else if d.act != nil {
			d.act(s, m)
		}
	})
}

// set changes a status and publishes it.
func (d *daemon) set(name string, change func(*rundir.Status)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.status[name]
	if s == nil {
		s = &rundir.Status{}
		d.status[name] = s
	}
	change(s)
	if err := d.publish(name, *s); err != nil {
		d.t.Error(err)
	}
}

func (d *daemon) publish(name string, s rundir.Status) error {
	f, err := d.dir.MakeFolder(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Write(rundir.State, s.Encode())
}

// phase puts a service into a phase from now on.
func (d *daemon) phase(name, phase, wanted string) {
	d.set(name, func(s *rundir.Status) { s.Phase, s.Wanted, s.Clock = phase, wanted, rundir.Clock() })
}

func (d *daemon) client() *Client {
	d.t.Helper()
	c, err := Connect(d.dir, d.sysdir)
	d.must(err)
	d.t.Cleanup(c.Close)
	return c
}

// pursue runs Pursue for one service and returns how it came out.
func (d *daemon) pursue(name string, verb Verb, goal Goal, wait time.Duration) error {
	d.t.Helper()
	target := &Target{Name: name, Goal: goal}
	if verb != "" {
		target.Request = &Request{Verb: verb, ID: NewID()}
	}
	within(d.t, wait+soon, "Pursue", func() { d.client().Pursue([]*Target{target}, wait) })
	return target.Err
}

// within fails the test if f does not return in time.
func within(t *testing.T, limit time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatalf("%s: still blocked after %v", what, limit)
	}
}

// eventually calls f until it answers true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(soon); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not after %v", what, soon)
		}
	}
}

func TestWithoutDaemonThereIsNoClient(t *testing.T) {
	w := newWorld(t)
	if _, err := Connect(w.dir, t.TempDir()); !errors.Is(err, rundir.ErrNotRunning) {
		t.Errorf("got %v, want %v", err, rundir.ErrNotRunning)
	}
}

func TestStopIsDoneWhenItIsDown(t *testing.T) {
	t.Parallel()
	d := serve(t, "web")
	stopping := make(chan struct{})
	d.act = func(s *rundir.Status, m Message) {
		s.Phase, s.Wanted = rundir.Stopping, "down"
		close(stopping)
	}
	result := make(chan error, 1)
	go func() { result <- d.pursue("web", Stop, Stopped, time.Minute) }()
	<-stopping
	select {
	case err := <-result:
		t.Fatalf("done while it was stopping: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	d.phase("web", rundir.Down, "down")
	if err := <-result; err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

func TestStartIsDoneAfterASecondOrWhenReady(t *testing.T) {
	t.Parallel()
	for _, ready := range []bool{false, true} {
		t.Run(fmt.Sprint("ready ", ready), func(t *testing.T) {
			t.Parallel()
			d := serve(t, "web")
			d.phase("web", rundir.Down, "down")
			var begin time.Time
			d.act = func(s *rundir.Status, m Message) {
				begin = time.Now()
				s.Phase, s.Wanted, s.Clock = rundir.Up, "up", rundir.Clock()
				if ready {
					d.echo("web", rundir.Ready, "")
				}
			}
			if err := d.pursue("web", Start, Running(false), time.Minute); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); !ready && took < steady-10*time.Millisecond {
				t.Errorf("done after %v, want %v", took, steady)
			}
		})
	}
}

// Where there is no room for a new status, the old one is not there either: that
// is no reason to think that the service is gone.
func TestAStatusThatIsMissingIsNoEnd(t *testing.T) {
	t.Parallel()
	for _, removed := range []bool{false, true} { // its entry is gone as well
		d := serve(t, "web")
		d.echo("web", rundir.Syspid, "9\n")
		status := filepath.Join(d.dir.Path(), "web", rundir.State)
		asked := make(chan struct{})
		d.act = func(s *rundir.Status, _ Message) {
			s.Phase, s.Wanted = rundir.Stopping, rundir.Down
			close(asked)
		}
		result := make(chan error, 1)
		go func() { result <- d.pursue("web", Stop, Stopped, time.Minute) }()
		<-asked
		d.mu.Lock() // no status is written meanwhile
		if removed {
			d.must(os.Remove(filepath.Join(d.sysdir, "web")))
		}
		os.Remove(status)
		select {
		case err := <-result:
			t.Errorf("entry removed %t: got %v while it is stopping", removed, err)
			d.mu.Unlock()
			continue
		case <-time.After(50 * time.Millisecond):
		}
		d.must(os.Remove(filepath.Join(d.dir.Path(), "web", rundir.Syspid)))
		d.mu.Unlock()
		d.phase("web", rundir.Down, rundir.Down)
		if err := <-result; err != nil {
			t.Errorf("entry removed %t: got %v, want nil", removed, err)
		}
	}
}

// Its being ready may come later than its being up.
func TestReadinessIsWaitedFor(t *testing.T) {
	t.Parallel()
	d := serve(t, "web")
	result := make(chan error, 1)
	go func() { result <- d.pursue("web", "", IsReady, time.Minute) }()
	select {
	case err := <-result:
		t.Fatalf("done before it was ready: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	d.echo("web", rundir.Ready, "")
	if err := <-result; err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

func TestRefusedRequestSaysWhy(t *testing.T) {
	t.Parallel()
	d := serve(t, "web")
	target := &Target{Name: "web", Request: &Request{Verb: "explode", ID: "x"}, Goal: IsUp}
	d.client().Pursue([]*Target{target}, time.Minute)
	if !errors.Is(target.Err, ErrRefused) || target.Err.Error() != `unknown verb "explode"` {
		t.Errorf("got %v, want the reason", target.Err)
	}
	// Somebody else's refusal is none of ours.
	if err := d.pursue("web", Restart, IsUp, time.Minute); err != nil {
		t.Errorf("the next request: got %v, want nil", err)
	}
}

func TestUnknownServiceIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	d := serve(t, "web")
	d.must(os.WriteFile(filepath.Join(d.sysdir, "web~"), nil, 0o755))
	for _, name := range []string{"nothing", "web~"} {
		if err := d.pursue(name, Start, Running(false), time.Minute); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: got %v, want %v", name, err, ErrUnknown)
		}
		if _, err := os.Lstat(filepath.Join(d.dir.Path(), name)); err == nil {
			t.Errorf("%s: a folder was made for it", name)
		}
	}
	if err := d.pursue("../x", Start, Running(false), time.Minute); !errors.Is(err, rundir.ErrName) {
		t.Errorf("../x: got %v, want %v", err, rundir.ErrName)
	}
}

// An entry that the daemon has not taken up yet is waited for, even if the
// folder comes first and its status later.
// A folder without a status is what is left of a service, or not one yet.
func TestNothingIsAskedOfAFolderWithoutAStatus(t *testing.T) {
	t.Parallel()
	// A daemon that takes nothing.
	w := newWorld(t)
	claim, err := w.dir.Claim()
	w.must(err)
	defer claim.Release()
	d := &daemon{world: w, sysdir: t.TempDir()}
	f, err := d.dir.MakeFolder("gone")
	w.must(err)
	defer f.Close()
	w.must(f.Write(rundir.Lock, rundir.HoldDown.Line()))
	if err := d.pursue("gone", Start, Running(false), time.Minute); !errors.Is(err, ErrUnknown) {
		t.Errorf("got %v, want %v", err, ErrUnknown)
	}
	if f.Has(rundir.Control) {
		t.Error("got a request, want none")
	}
}

func TestEntryThatIsNotTakenUpYetIsWaitedFor(t *testing.T) {
	t.Parallel()
	d := serve(t)
	d.must(os.WriteFile(filepath.Join(d.sysdir, "new"), nil, 0o755))
	result := make(chan error, 1)
	go func() { result <- d.pursue("new", Restart, IsUp, time.Minute) }()
	for _, step := range []func(){
		func() { d.must(os.Mkdir(filepath.Join(d.dir.Path(), "new"), 0o755)) },
		func() { d.control.Attend("new") },
		func() { d.phase("new", rundir.Up, "up") },
	} {
		select {
		case err := <-result:
			t.Fatalf("done too early: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		step()
	}
	if err := <-result; err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

func TestTimeRunsOutWhenItSays(t *testing.T) {
	t.Parallel()
	d := serve(t, "web", "db")
	c := d.client()
	never := func(View) (bool, time.Duration, error) { return false, 0, nil }
	for _, wait := range []time.Duration{200 * time.Millisecond, 1200 * time.Millisecond} {
		targets := []*Target{{Name: "web", Goal: never}, {Name: "db", Goal: IsUp}, {Name: "web", Goal: never}}
		begin := time.Now()
		c.Pursue(targets, wait)
		took := time.Since(begin)
		if !errors.Is(targets[0].Err, ErrTime) || targets[1].Err != nil || !errors.Is(targets[2].Err, ErrTime) {
			t.Errorf("got %v, %v, %v, want time, nil, time", targets[0].Err, targets[1].Err, targets[2].Err)
		}
		if took < wait || took > wait+wait/2+500*time.Millisecond {
			t.Errorf("wait %v: took %v", wait, took)
		}
		if v := targets[0].View(); v.Phase != rundir.Up {
			t.Errorf("the last view: got %+v", v)
		}
	}
}

func TestWaitOfZeroPlacesTheRequestAndNoMore(t *testing.T) {
	t.Parallel()
	// A daemon that takes nothing.
	w := newWorld(t)
	claim, err := w.dir.Claim()
	w.must(err)
	defer claim.Release()
	d := &daemon{world: w, sysdir: t.TempDir(), status: make(map[string]*rundir.Status)}
	d.phase("web", rundir.Up, "up")
	if err := d.pursue("web", Stop, Stopped, 0); err != nil {
		t.Errorf("the place is free: got %v, want nil", err)
	}
	data, err := os.ReadFile(d.path("web", rundir.Control))
	if err != nil || !strings.HasPrefix(string(data), "stop ") {
		t.Errorf("the request: got %q, %v", data, err)
	}
	if err := d.pursue("web", Start, Running(false), 0); !errors.Is(err, ErrTime) {
		t.Errorf("the place is taken: got %v, want %v", err, ErrTime)
	}
	if again, _ := os.ReadFile(d.path("web", rundir.Control)); string(again) != string(data) {
		t.Errorf("the other's request: got %q, want %q", again, data)
	}
	begin := time.Now()
	if err := d.pursue("web", "", IsDown, 0); !errors.Is(err, ErrTime) {
		t.Errorf("no request: got %v, want %v", err, ErrTime)
	}
	if err := d.pursue("web", "", IsUp, 0); err != nil {
		t.Errorf("no request, and it is so already: got %v, want nil", err)
	}
	if took := time.Since(begin); took > placing {
		t.Errorf("a look took %v", took)
	}
}

// claimAndHang is a daemon that holds its claim and takes nothing.
func claimAndHang(path string) {
	dir, err := rundir.Create(path)
	if err == nil {
		_, err = dir.Claim()
	}
	fmt.Println(err)
	io.Copy(io.Discard, os.Stdin)
}

func TestDeathOfTheDaemonIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := &daemon{world: w, sysdir: t.TempDir(), status: make(map[string]*rundir.Status)}
	d.must(os.WriteFile(filepath.Join(d.sysdir, "new"), nil, 0o755))
	d.phase("web", rundir.Up, "up")
	cmd, stdin := hold(t, w.dir.Path())
	defer stdin.Close()
	targets := []*Target{
		{Name: "web", Request: &Request{Verb: Stop, ID: "a"}, Goal: Stopped},
		{Name: "web", Goal: IsUp},
		{Name: "new", Goal: IsUp},
	}
	client := d.client()
	done := make(chan struct{})
	go func() { defer close(done); client.Pursue(targets, 10*time.Minute) }()
	eventually(t, "the request is placed", func() bool {
		_, err := os.Lstat(d.path("web", rundir.Control))
		return err == nil
	})
	d.must(cmd.Process.Kill())
	cmd.Wait()
	select {
	case <-done:
	case <-time.After(soon):
		t.Fatalf("still waiting %v after the daemon died", soon)
	}
	if !errors.Is(targets[0].Err, rundir.ErrNotRunning) || targets[1].Err != nil || !errors.Is(targets[2].Err, rundir.ErrNotRunning) {
		t.Errorf("got %v, %v, %v, want not running, nil, not running", targets[0].Err, targets[1].Err, targets[2].Err)
	}
}

// hold starts a daemon in another process and waits until it has its claim.
func hold(t *testing.T, path string) (*exec.Cmd, io.Closer) {
	t.Helper()
	cmd := another("daemon", path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "<nil>\n" {
		t.Fatalf("the daemon says %q, %v", line, err)
	}
	return cmd, stdin
}

// Many clients push their requests through one file, and none is lost or
// taken twice.
func TestNoRequestIsLostInTheCrowd(t *testing.T) {
	t.Parallel()
	d := serve(t, "web")
	taken := make(map[string]int)
	d.act = func(s *rundir.Status, m Message) { taken[m.Request.ID]++ }
	const clients, each = 8, 12
	var wait sync.WaitGroup
	for i := range clients {
		client := d.client()
		wait.Go(func() {
			for j := range each {
				target := &Target{Name: "web", Request: &Request{Verb: Restart, ID: fmt.Sprintf("%d.%d", i, j)}}
				client.Pursue([]*Target{target}, time.Minute)
				if target.Err != nil {
					t.Errorf("%s: %v", target.Request.ID, target.Err)
				}
			}
		})
	}
	wait.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range clients {
		for j := range each {
			if id := fmt.Sprintf("%d.%d", i, j); taken[id] != 1 {
				t.Errorf("%s: taken %d times, want once", id, taken[id])
			}
		}
	}
}

// One client with many services waits once for all.
func TestManyServicesAreWaitedForTogether(t *testing.T) {
	t.Parallel()
	var names []string
	for i := range 30 {
		names = append(names, fmt.Sprint("service ", i))
	}
	d := serve(t, names...)
	d.act = func(s *rundir.Status, m Message) { s.Phase, s.Wanted = rundir.Down, "down" }
	var targets []*Target
	for _, name := range names {
		targets = append(targets, &Target{Name: name, Request: &Request{Verb: Stop, ID: NewID()}, Goal: Stopped})
	}
	within(t, soon, "Pursue", func() { d.client().Pursue(targets, time.Minute) })
	for _, target := range targets {
		if target.Err != nil || target.View().Phase != rundir.Down {
			t.Errorf("%s: got %v, %+v", target.Name, target.Err, target.View())
		}
	}
}

// A folder may be removed and made again while a client waits.
func TestFolderThatIsReplacedIsStillWaitedFor(t *testing.T) {
	t.Parallel()
	d := serve(t)
	d.must(os.WriteFile(filepath.Join(d.sysdir, "web"), nil, 0o755))
	d.phase("web", rundir.Backoff, "up")
	result := make(chan error, 1)
	seen := make(chan struct{}, 1000)
	go func() {
		result <- d.pursue("web", "", func(v View) (bool, time.Duration, error) {
			seen <- struct{}{}
			return v.IsUp(), 0, nil
		}, time.Minute)
	}()
	<-seen
	// In one step, so that the client cannot see it missing.
	spare := filepath.Join(d.dir.Path(), ".spare")
	d.must(os.Mkdir(spare, 0o755))
	d.must(os.WriteFile(filepath.Join(spare, "status"), []byte("phase backoff\nwanted up\n"), 0o644))
	d.must(unix.Renameat2(unix.AT_FDCWD, spare, unix.AT_FDCWD, filepath.Join(d.dir.Path(), "web"), unix.RENAME_EXCHANGE))
	time.Sleep(20 * time.Millisecond) // it has looked for the last time
	d.phase("web", rundir.Up, "up")
	select {
	case err := <-result:
		if err != nil {
			t.Errorf("got %v, want nil", err)
		}
	case <-time.After(soon):
		t.Fatalf("deaf: still waiting after %v", soon)
	}
}

// Whoever may not write to the folder is told so; looking is for everybody.
func TestControlIsForThoseWhoMayWriteToTheFolder(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	d := serve(t, "web")
	for dir := d.dir.Path(); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		d.must(os.Chmod(dir, 0o755)) // as far as the test's own places go
	}
	if got, want := output(t, "nobody", d.dir.Path(), nil), "permission true, look <nil>"; got != want {
		t.Errorf("mode 755: got %q, want %q", got, want)
	}
	d.must(os.Chmod(filepath.Join(d.dir.Path(), "web"), 0o777))
	if got, want := output(t, "nobody", d.dir.Path(), nil), "permission false, look <nil>"; got != want {
		t.Errorf("mode 777: got %q, want %q", got, want)
	}
}

func askAsNobody(path string) string {
	const nobody = 65534
	if err := unix.Setresuid(nobody, nobody, nobody); err != nil {
		return err.Error()
	}
	dir, err := rundir.Open(path)
	if err != nil {
		return err.Error()
	}
	client, err := Connect(dir, "/nonexistent")
	if err != nil {
		return err.Error()
	}
	target := &Target{Name: "web", Request: &Request{Verb: Restart, ID: NewID()}}
	client.Pursue([]*Target{target}, soon)
	_, err = Look(dir, "web")
	return fmt.Sprintf("permission %v, look %v", errors.Is(target.Err, fs.ErrPermission), err)
}

func TestGoals(t *testing.T) {
	ago := func(d time.Duration) time.Duration { return rundir.Clock() - d }
	up := rundir.Status{Phase: rundir.Up, Wanted: "up", Clock: ago(time.Minute)}
	young := rundir.Status{Phase: rundir.Up, Wanted: "up", Clock: ago(0)}
	down := rundir.Status{Phase: rundir.Down, Wanted: "down", Starts: 1, LastExit: "exit 0"}
	failed := rundir.Status{Phase: rundir.Down, Wanted: "down", Starts: 1, LastExit: "exit 1"}
	stopping := rundir.Status{Phase: rundir.Stopping, Wanted: "down"}
	restarting := rundir.Status{Phase: rundir.Stopping, Wanted: "up"}
	starting := rundir.Status{Phase: rundir.Down, Wanted: "up"}
	onceMore := rundir.Status{Phase: rundir.Down, Wanted: "once", Starts: 1, LastExit: "exit 0"}
	backoff := rundir.Status{Phase: rundir.Backoff, Wanted: "up", RetryIn: 4 * time.Second, Cause: "exit 1 after 0s"}
	busy := rundir.Status{Phase: rundir.Backoff, Wanted: "up", RetryIn: 80 * time.Millisecond}
	blocked := rundir.Status{Phase: rundir.Blocked, Wanted: "up", Cause: "not executable"}
	const (
		yes   = "done"
		wait  = "wait"
		again = "look again"
	)
	for _, c := range []struct {
		what string
		view View
		want map[string]string
	}{
		{"up", View{Status: up}, map[string]string{"running": yes, "once": yes, "stopped": "started again", "up": yes, "ready": wait, "down": wait}},
		{"just up", View{Status: young}, map[string]string{"running": again, "once": again, "up": yes, "ready": wait, "down": wait}},
		{"just up and ready", View{Status: young, Ready: true}, map[string]string{"running": yes, "once": yes, "up": yes, "ready": yes}},
		{"waiting", View{Status: up, Waiting: []string{"db"}}, map[string]string{"running": wait, "up": wait, "ready": wait, "down": wait}},
		{"waiting and ready", View{Status: up, Ready: true, Waiting: []string{"db"}}, map[string]string{"running": wait, "up": wait, "ready": wait}},
		{"stopping", View{Status: stopping}, map[string]string{"running": wait, "stopped": wait, "up": wait, "down": wait}},
		{"restarting", View{Status: restarting}, map[string]string{"running": wait, "stopped": "started again", "down": wait}},
		{"starting", View{Status: starting}, map[string]string{"running": wait, "up": wait, "down": yes}},
		{"starting once more", View{Status: onceMore}, map[string]string{"once": wait, "up": wait}},
		{"down", View{Status: down}, map[string]string{"running": "stopped again", "once": yes, "stopped": yes, "up": wait, "down": yes}},
		{"down, failed", View{Status: failed}, map[string]string{"running": "stopped again", "once": "ended: exit 1", "stopped": yes, "down": yes}},
		{"backoff", View{Status: backoff}, map[string]string{"running": "did not stay up: exit 1 after 0s; next try within 4s", "up": wait, "down": wait, "stopped": "started again"}},
		{"being written", View{Status: busy}, map[string]string{"running": wait}},
		{"blocked", View{Status: blocked}, map[string]string{"running": "not executable", "once": "not executable", "up": wait, "down": wait}},
		{"gone", View{Gone: true}, map[string]string{"running": "removed", "once": "removed", "stopped": yes, "up": wait, "down": yes}},
	} {
		for name, want := range c.want {
			goal := map[string]Goal{"running": Running(false), "once": Running(true), "stopped": Stopped, "up": IsUp, "ready": IsReady, "down": IsDown}[name]
			done, soon, err := goal(c.view)
			got := wait
			switch {
			case err != nil:
				got = err.Error()
				if !errors.Is(err, ErrRefused) {
					t.Errorf("%s, %s: %v does not wrap ErrRefused", c.what, name, err)
				}
			case done:
				got = yes
			case soon > 0:
				got = again
			}
			if got != want && !(err != nil && strings.HasPrefix(got, want)) {
				t.Errorf("%s, %s: got %q, want %q", c.what, name, got, want)
			}
		}
	}
}

func TestLookSeesWhatTheFilesSay(t *testing.T) {
	w := newWorld(t)
	if _, err := Look(w.dir, "web"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a folder: got %v, want %v", err, fs.ErrNotExist)
	}
	w.must(os.Mkdir(filepath.Join(w.dir.Path(), "web"), 0o755))
	if _, err := Look(w.dir, "web"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a status: got %v, want %v", err, fs.ErrNotExist)
	}
	w.echo("web", rundir.State, "nonsense\n")
	if _, err := Look(w.dir, "web"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nonsense: got %v, want an error that says so", err)
	}
	w.echo("web", rundir.Waiting, "db\nthe cache\n")
	w.echo("web", rundir.State, "phase down\nwanted down\n")
	if v, err := Look(w.dir, "web"); err != nil || v.Waiting != nil || v.Ready {
		t.Errorf("down: got %+v, %v, want nobody waited for", v, err)
	}
	w.echo("web", rundir.State, "phase up\nwanted up\npid 412\n")
	w.echo("web", rundir.Ready, "")
	v, err := Look(w.dir, "web")
	if err != nil || strings.Join(v.Waiting, ",") != "db,the cache" || !v.Ready || v.Pid != 412 || v.IsUp() {
		t.Errorf("up: got %+v, %v", v, err)
	}
	// Whoever waits wants to know it exactly: what the status repeats is behind.
	w.echo("web", rundir.State, "phase up\nwanted up\npid 412\nready no\nwaiting dns\n")
	if again, err := Look(w.dir, "web"); err != nil || !same(v, again) {
		t.Errorf("with a status that says something else: got %+v, %v, want %+v", again, err, v)
	}
}

// What a status says of what a service says is believed for a list, and no file
// is looked at but that; unless whoever asks wants to know it exactly, or the
// daemon does not hear of it.
func TestGlanceOfAListBelievesTheStatus(t *testing.T) {
	const up = "phase up\nwanted up\npid 412\n"
	for _, c := range []struct {
		what, status string
		hearsay      bool
		want         string
	}{
		{"nothing said", up + "ready no\n", true, "412 false []"},
		{"all said", up + "ready yes\nservice-pid 7\nwaiting a\nwaiting the b\n", true, "7 true [a the b]"},
		{"stopping", "phase stopping\npid 412\nready yes\nservice-pid 7\nwaiting a\n", true, "7 true []"},
		{"its process has ended", "phase stopping\nready yes\nservice-pid 7\n", true, "0 true []"},
		{"down", "phase down\n", true, "0 false []"},
		{"a daemon that does not hear", up, true, "4711 true [db the cache]"},
		{"an exact answer is wanted", up + "ready no\n", false, "4711 true [db the cache]"},
		{"of what stops too", "phase stopping\npid 412\nready no\n", false, "4711 true []"},
	} {
		w := newWorld(t)
		f := w.folder("web")
		w.must(errors.Join(
			f.Write(rundir.State, []byte(c.status)),
			f.Write(rundir.Ready, nil),
			f.Write(rundir.Waiting, []byte("db\nthe cache\n")),
			f.Write(rundir.Pid, []byte("4711\n"))))
		v, shown, err := Glance(w.dir, "web", c.hearsay, make([]byte, rundir.MaxFile+1))
		if got := fmt.Sprint(shown, v.Ready, v.Waiting); err != nil || got != c.want {
			t.Errorf("%s: got %s, %v, want %s", c.what, got, err, c.want)
		}
		if !v.Said.Equal(rundir.Said{}) {
			t.Errorf("%s: got %+v, want it said once", c.what, v.Said)
		}
	}
}
