//go:build linux

package rundir

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mode is the permission of what lies under a path.
func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

// The umask belongs to the services: it must take nothing from our modes, and
// must still be there afterwards.
func TestModesDoNotDependOnTheUmask(t *testing.T) {
	for _, mask := range []int{0, 0o022, 0o077, 0o777} {
		t.Run(fmt.Sprintf("%03o", mask), func(t *testing.T) {
			path := t.TempDir() + "/run"
			before := unix.Umask(mask)
			defer unix.Umask(before)
			dir, err := Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			f, err := dir.MakeFolder("web")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			claim, err := dir.Claim()
			if err != nil {
				t.Fatal(err)
			}
			defer claim.Release()
			if err := errors.Join(f.Write(State, []byte("phase up\n")), f.moveNew(Pid, PidLine(412)), f.WriteNew(Control, nil)); err != nil {
				t.Fatal(err)
			}
			for name, want := range map[string]fs.FileMode{
				".": 0o755, "web": 0o755, "pid": 0o644, "web/status": 0o644, "web/pid": 0o644, "web/control": 0o644, ".sysmgr": 0o700,
			} {
				if got := mode(t, filepath.Join(path, name)); got != want {
					t.Errorf("%s: got %o, want %o", name, got, want)
				}
			}
			if now := unix.Umask(mask); now != mask {
				t.Errorf("umask: got %03o, want %03o", now, mask)
			}
		})
	}
}

// A script may have opened its folder to a group; that stays.
func TestFolderThatExistsKeepsItsMode(t *testing.T) {
	dir := newDir(t)
	path := filepath.Join(dir.Path(), "web")
	if err := errors.Join(os.Mkdir(path, 0o755), os.Chmod(path, 0o775)); err != nil {
		t.Fatal(err)
	}
	f, err := dir.MakeFolder("web")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if got := mode(t, path); got != 0o775 {
		t.Errorf("got %o, want 775", got)
	}
}

func TestBadNameTouchesNothing(t *testing.T) {
	dir := newDir(t)
	for _, name := range []string{"", ".", "..", "/", "../x", "a/b", "pid", "a\nb", strings.Repeat("x", 5000)} {
		if f, err := dir.MakeFolder(name); !errors.Is(err, ErrName) {
			f.Close()
			t.Errorf("MakeFolder(%.20q): got %v, want %v", name, err, ErrName)
		}
		if f, err := dir.Folder(name); !errors.Is(err, ErrName) {
			f.Close()
			t.Errorf("Folder(%.20q): got %v, want %v", name, err, ErrName)
		}
		if err := dir.Sweep(name, false); !errors.Is(err, ErrName) {
			t.Errorf("Sweep(%.20q): got %v, want %v", name, err, ErrName)
		}
	}
	if left, _ := os.ReadDir(dir.Path()); len(left) != 0 {
		t.Errorf("got %v in the run directory, want nothing", left)
	}
}

func TestFolderThatIsALinkIsNotFollowed(t *testing.T) {
	dir := newDir(t)
	outside := t.TempDir()
	if err := os.Symlink(outside, dir.Path()+"/web"); err != nil {
		t.Fatal(err)
	}
	if f, err := dir.Folder("web"); err == nil {
		f.Close()
		t.Error("Folder: got a folder through a link, want an error")
	}
	if f, err := dir.MakeFolder("web"); err == nil {
		f.Close()
		t.Error("MakeFolder: got a folder through a link, want an error")
	}
	put(t, outside+"/pid", "412\n")
	dir.Sweep("web", false)
	if _, err := os.Lstat(outside + "/pid"); err != nil {
		t.Errorf("Sweep reached through a link: %v", err)
	}
}

func TestNamesAreFoldersOfServices(t *testing.T) {
	dir := newDir(t)
	for _, name := range []string{"web", "a b", "web~", ".sysmgr", "x.tmp", "new\nline"} {
		if err := os.Mkdir(filepath.Join(dir.Path(), name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, dir.Path()+"/pid", "412\n")
	put(t, dir.Path()+"/file", "")
	os.Symlink("web", dir.Path()+"/link")
	got, err := dir.Names()
	slices.Sort(got)
	if want := []string{"a b", "web"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

// readers reads path as fast as it can while write goes on, and returns the
// first content that complete does not accept. write is asked to write until
// it answers false.
func readers(t *testing.T, path string, complete func([]byte) bool, write func(i int) bool) (torn []byte, found bool) {
	t.Helper()
	var stop atomic.Bool
	var wait sync.WaitGroup
	var mu sync.Mutex
	for range 2 {
		wait.Go(func() {
			for !stop.Load() {
				data, err := os.ReadFile(path)
				if err != nil || !complete(data) {
					mu.Lock()
					torn, found = append(data, fmt.Sprint(" ", err)...), true
					mu.Unlock()
					stop.Store(true)
				}
			}
		})
	}
	for i := 0; !stop.Load() && write(i); i++ {
	}
	stop.Store(true)
	wait.Wait()
	return torn, found
}

// Two contents of different lengths, each longer than a page.
var versions = [][]byte{bytes.Repeat([]byte("a"), 5000), bytes.Repeat([]byte("b"), 9000)}

func oneVersion(data []byte) bool {
	return bytes.Equal(data, versions[0]) || bytes.Equal(data, versions[1])
}

func TestReaderSeesTheOldContentOrTheNew(t *testing.T) {
	f := newFolder(t)
	if err := f.Write(State, versions[0]); err != nil {
		t.Fatal(err)
	}
	torn, found := readers(t, f.Path()+"/status", oneVersion, func(i int) bool {
		if err := f.Write(State, versions[i%2]); err != nil {
			t.Fatal(err)
		}
		return i < 400
	})
	if found {
		t.Errorf("a reader got %d bytes: %.40q", len(torn), torn)
	}
	if left := f.unfinished(); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}

// The control of the test above: a file that is written in place is seen torn.
func TestReaderSeesAFileTornThatIsWrittenInPlace(t *testing.T) {
	path := t.TempDir() + "/status"
	put(t, path, string(versions[0]))
	end := time.Now().Add(soon)
	_, found := readers(t, path, oneVersion, func(i int) bool {
		os.WriteFile(path, versions[i%2], 0o644)
		return time.Now().Before(end)
	})
	if !found {
		t.Error("no reader saw a partial file: the test above proves nothing")
	}
}

func TestWriteReplacesWhatIsInTheWay(t *testing.T) {
	for name, make := range odd {
		if name == "directory" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			f := newFolder(t)
			if err := make(f.Path() + "/pid"); err != nil {
				t.Fatal(err)
			}
			within(t, soon, "Write", func() {
				if err := f.Write(Pid, PidLine(412)); err != nil {
					t.Error(err)
				}
			})
			if data, err := f.Read(Pid); err != nil || string(data) != "412\n" {
				t.Errorf("got %q, %v, want 412", data, err)
			}
		})
	}
	t.Run("directory", func(t *testing.T) {
		f := newFolder(t)
		os.Mkdir(f.Path()+"/pid", 0o755)
		if err := f.Write(Pid, PidLine(412)); err == nil {
			t.Error("got nil, want an error")
		}
		if left := f.unfinished(); len(left) > 0 {
			t.Errorf("left over: %q", left)
		}
	})
}

func TestWriteNewHasOneWinner(t *testing.T) {
	f := newFolder(t)
	for round := range 40 {
		write := f.WriteNew
		if round%2 == 1 {
			write = f.moveNew
		}
		var won atomic.Int32
		var winner atomic.Int64
		var wait sync.WaitGroup
		for i := range 8 {
			wait.Go(func() {
				err := write(Control, PidLine(1000+i))
				switch {
				case err == nil:
					won.Add(1)
					winner.Store(int64(1000 + i))
				case !errors.Is(err, fs.ErrExist):
					t.Errorf("got %v, want %v", err, fs.ErrExist)
				}
			})
		}
		wait.Wait()
		data, err := f.Read(Control)
		if err != nil || won.Load() != 1 || string(data) != fmt.Sprintf("%d\n", winner.Load()) {
			t.Fatalf("%d winners, the last %d, and the file says %q, %v", won.Load(), winner.Load(), data, err)
		}
		if err := f.Remove(Control); err != nil {
			t.Fatal(err)
		}
	}
	if left := f.unfinished(); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}

func TestReadRefusesWhatIsNoFileWithoutBlocking(t *testing.T) {
	for name, make := range odd {
		t.Run(name, func(t *testing.T) {
			f := newFolder(t)
			if err := make(f.Path() + "/pid"); err != nil {
				t.Fatal(err)
			}
			within(t, soon, "Read", func() {
				if data, err := f.Read(Pid); !errors.Is(err, ErrIrregular) {
					t.Errorf("got %d bytes, %v, want %v", len(data), err, ErrIrregular)
				}
			})
		})
	}
	f := newFolder(t)
	if _, err := f.Read(Pid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing: got %v, want %v", err, fs.ErrNotExist)
	}
	for _, size := range []int{0, 1, 511, 512, 513, MaxFile - 1, MaxFile} {
		want := bytes.Repeat([]byte("x"), size)
		put(t, f.Path()+"/pid", string(want))
		if got, err := f.Read(Pid); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d, %v", size, len(got), err)
		}
	}
}

func TestRemoveTriesEveryName(t *testing.T) {
	f := newFolder(t)
	put(t, f.Path()+"/pid", "")
	os.MkdirAll(f.Path()+"/lock/sub", 0o755)
	os.Mkdir(f.Path()+"/waiting", 0o755)
	put(t, f.Path()+"/ready", "")
	err := f.Remove(Pid, "nothing", Lock, Waiting, Ready)
	if err == nil || !strings.Contains(err.Error(), "lock") {
		t.Errorf("got %v, want the error about lock", err)
	}
	if got := listing(t, f.Path()); !slices.Equal(got, []string{"lock"}) {
		t.Errorf("left: got %q, want the lock, a directory that is not empty", got)
	}
}

func TestStampChangesWithTheFile(t *testing.T) {
	f := newFolder(t)
	path := f.Path() + "/lock"
	seen := map[Stamp]string{{}: "nothing"}
	look := func(what string) {
		t.Helper()
		s := f.Stamp(Lock)
		if before, ok := seen[s]; ok {
			t.Errorf("%s has the stamp of %s", what, before)
		}
		seen[s] = what
	}
	put(t, path, "TERM\n")
	look("a new file")
	if first, second := f.Stamp(Lock), f.Stamp(Lock); first != second {
		t.Error("a file that nobody touches changes its stamp")
	}
	os.Chmod(path, 0o600)
	look("another mode")
	put(t, path, "longer\n")
	look("another size")
	os.Chtimes(path, time.Now(), time.Unix(1, 0))
	look("another time")
	f.Write(Lock, []byte("longer\n"))
	look("another file")
}

func TestSweepRemovesWhatIsOurs(t *testing.T) {
	dir := newDir(t)
	fill := func() *Folder {
		f, err := dir.MakeFolder("web")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(f.Close)
		for _, name := range append([]string{Lock, GuardFile, fresh + "1.1", fresh + "99.2"}, daemonFiles...) {
			put(t, filepath.Join(f.Path(), name), "x")
		}
		return f
	}

	f := fill()
	if err := dir.Sweep("web", true); err != nil {
		t.Fatal(err)
	}
	if got := listing(t, f.Path()); !slices.Equal(got, []string{GuardFile, Lock}) {
		t.Errorf("with keepLock: got %q, want the lock and the guard", got)
	}

	f = fill()
	put(t, f.Path()+"/stranger", "x")
	if err := dir.Sweep("web", false); err != nil {
		t.Fatal(err)
	}
	if got := listing(t, f.Path()); !slices.Equal(got, []string{"stranger"}) {
		t.Errorf("with a stranger's file: got %q, want that", got)
	}
	os.Remove(f.Path() + "/stranger")

	fill()
	if err := dir.Sweep("web", false); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.Folder("web"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder: got %v, want %v", err, fs.ErrNotExist)
	}
	if err := dir.Sweep("web", false); err != nil {
		t.Errorf("nothing to sweep: got %v, want nil", err)
	}
}

// What a run leaves as a rule is removed without a look at what else there is.
func TestSweepOfWhatARunLeavesKeepsAllElse(t *testing.T) {
	dir := newDir(t)
	for _, left := range [][]string{{}, {Lock}, {"stranger"}} {
		f, err := dir.MakeFolder("web")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range append([]string{Pid, Syspid, State, GuardFile}, left...) {
			put(t, filepath.Join(f.Path(), name), "x")
		}
		if err := dir.Sweep("web", true); err != nil {
			t.Errorf("beside %q: got %v, want nil", left, err)
		}
		if len(left) == 0 {
			if _, err := dir.Folder("web"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a folder with nothing else: got %v, want %v", err, fs.ErrNotExist)
			}
		} else {
			want := left
			if left[0] == Lock {
				want = []string{GuardFile, Lock} // it is still a service's folder
			}
			if got := listing(t, f.Path()); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		f.Remove(append(left, GuardFile)...)
		f.Close()
	}
}

// Sweep gives up the guard's name before it knows that there is more to remove.
// Who takes the guard then, as runsyssv does, keeps what he writes.
func TestSweepLeavesAloneWhoCameMeanwhile(t *testing.T) {
	dir := newDir(t)
	f, err := dir.MakeFolder("web")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	put(t, filepath.Join(f.Path(), Lock), "x")
	end := time.Now().Add(time.Second / 2)
	var wait sync.WaitGroup
	wait.Go(func() {
		for time.Now().Before(end) {
			if err := dir.Sweep("web", true); err != nil {
				t.Errorf("sweep: got %v, want nil", err)
				return
			}
		}
	})
	held := 0
	for time.Now().Before(end) || held == 0 {
		guard, err := f.Grab()
		if err != nil {
			continue
		}
		held++
		put(t, filepath.Join(f.Path(), Ready), "x")
		time.Sleep(50 * time.Microsecond)
		if !f.Has(Ready) {
			t.Fatal("a file was removed under the one who holds the guard")
		}
		guard.Release()
	}
	wait.Wait()
}

// RUNDIR may be /run by mistake, where dbus has /run/dbus/pid, and sshd an empty
// folder that it needs.
func TestReleaseLeavesAFolderThatIsNoServices(t *testing.T) {
	for name, c := range map[string]struct {
		there  []string
		status string
		ours   bool
	}{
		"nothing says so":         {there: []string{Pid, Lock, Ready}},
		"nothing is in it":        {},
		"something called status": {there: []string{Pid, State}, status: "of something else\n"},
		"a guard":                 {there: []string{GuardFile, Pid, Lock, Ready}, ours: true},
		"a status":                {there: []string{Lock, Pid, State}, status: "phase up\n", ours: true},
	} {
		dir := newDir(t)
		claim := claim(t, dir)
		f, err := dir.MakeFolder("dbus")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range c.there {
			put(t, filepath.Join(f.Path(), file), c.status)
		}
		if err := claim.Release(); err != nil {
			t.Errorf("%s: got %v, want nil", name, err)
		}
		if _, err := os.Lstat(f.Path()); c.ours {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: got %v, want no folder any more", name, err)
			}
		} else if got := listing(t, f.Path()); !slices.Equal(got, slices.Sorted(slices.Values(c.there))) {
			t.Errorf("%s: got %q, want %q", name, got, c.there)
		}
		f.Close()
	}
}

// A lock outlives its service, and goes with the daemon.
func TestReleaseRemovesALockThatWasKept(t *testing.T) {
	dir := newDir(t)
	c := claim(t, dir)
	f, err := dir.MakeFolder("web")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, file := range []string{GuardFile, State, Lock} {
		put(t, filepath.Join(f.Path(), file), "phase down\n")
	}
	if err := dir.Sweep("web", true); err != nil {
		t.Fatal(err)
	}
	if !f.Has(Lock) {
		t.Fatal("the lock is gone with its service")
	}
	if err := c.Release(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want no directory any more", err)
	}
}

func listing(t *testing.T, path string) []string {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestGrabHasOneHolder(t *testing.T) {
	f := newFolder(t)
	guard, err := f.Grab()
	if err != nil {
		t.Fatal(err)
	}
	if second, err := f.Grab(); !errors.Is(err, ErrGrabbed) {
		second.Release()
		t.Errorf("second: got %v, want %v", err, ErrGrabbed)
	}
	guard.Release()
	guard, err = f.Grab()
	if err != nil {
		t.Fatalf("after the first gave it back: %v", err)
	}
	guard.Release()
}

// Whoever handles something gives back what he may have. Its descriptor may be
// another file's by then.
func TestGuardIsGivenBackOnce(t *testing.T) {
	f := newFolder(t)
	guard, err := f.Grab()
	if err != nil {
		t.Fatal(err)
	}
	fd := int(guard.after) - 1
	guard.Release()
	if again, err := unix.FcntlInt(uintptr(f.fd), unix.F_DUPFD_CLOEXEC, fd); err != nil || again != fd {
		t.Fatalf("got descriptor %d, %v; want %d, which was closed", again, err, fd)
	}
	guard.Release()
	if err := unix.Close(fd); err != nil {
		t.Errorf("another file with its descriptor: got %v, want it open", err)
	}
}

// A sweep takes the guard's file away. Who comes in that moment must not hold
// a file that has no name any more, beside another who holds the new one.
func TestGrabHasOneHolderEvenWhileTheFolderIsSwept(t *testing.T) {
	dir := newDir(t)
	var holders, most atomic.Int32
	var wait sync.WaitGroup
	end := time.Now().Add(time.Second / 2)
	for range 4 {
		wait.Go(func() {
			for time.Now().Before(end) {
				f, err := dir.MakeFolder("web")
				if err != nil {
					continue // swept between mkdir and open
				}
				guard, err := f.Grab()
				f.Close()
				if err != nil {
					continue
				}
				if n := holders.Add(1); n > most.Load() {
					most.Store(n)
				}
				time.Sleep(50 * time.Microsecond)
				// Whoever holds it may clear, and then holds nothing.
				holders.Add(-1)
				dir.Clear("web", true)
				guard.Release()
			}
		})
	}
	wait.Wait()
	if most.Load() != 1 {
		t.Errorf("got %d holders at once, want 1", most.Load())
	}
}

func TestLeadsIsAboutSessions(t *testing.T) {
	sid, err := unix.Getsid(0)
	if err != nil {
		t.Fatal(err)
	}
	if pid := os.Getpid(); Leads(pid) != (sid == pid) {
		t.Errorf("Leads(%d): got %v, want %v", pid, Leads(pid), sid == pid)
	}
	if sid > 1 && !Leads(sid) {
		t.Errorf("Leads(%d): got false for the leader of our session", sid)
	}
	if Leads(1<<31 - 1) {
		t.Error("Leads of a number that no process has: got true")
	}
}

// Want of descriptors is no lock: with the table full, openat(2) fails before
// it has looked whether the file is there.
func TestWithoutDescriptorsNothingIsHeldDown(t *testing.T) {
	dir := newDir(t)
	if _, err := dir.MakeFolder("web"); err != nil {
		t.Fatal(err)
	}
	if _, got := child(t, "lock without descriptors", dir.Path()); got != fmt.Sprint(NoHold) {
		t.Errorf("hold without a lock file: got %s, want %v", got, NoHold)
	}
}

func readHoldWithFullTable(path string) {
	time.Sleep(time.Nanosecond) // the runtime takes descriptors of its own for its first timer
	dir, err := Open(path)
	if err != nil {
		fmt.Println(err)
		return
	}
	f, err := dir.Folder("web")
	if err != nil {
		fmt.Println(err)
		return
	}
	unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: 64})
	for err = nil; err == nil; {
		_, err = unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	hold, _, _ := f.ReadHold()
	fmt.Println(hold)
}

// A file that is replaced while it is read is there all the time.
func TestFileReplacedWhileItIsReadIsThere(t *testing.T) {
	dir, err := Create(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	f, err := dir.MakeFolder("web")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Write(State, []byte("phase up\n")); err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	var stop atomic.Bool
	for range 2 {
		readers.Go(func() {
			for !stop.Load() {
				if _, err := f.Read(State); err != nil {
					t.Errorf("read: got %v, want no error", err)
					return
				}
			}
		})
	}
	for range 1000 {
		if err := f.Write(State, []byte("phase up\n")); err != nil {
			t.Error(err)
			break
		}
	}
	stop.Store(true)
	readers.Wait()
}
