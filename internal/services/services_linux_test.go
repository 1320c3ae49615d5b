package services

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sysmgr/internal/have"
)

// patience is how long anything may take.
const patience = 60 * time.Second

// world is a daemon with a SYSDIR of its own.
type world struct {
	sysdir, rundir, bin, log string
	env                      []string
}

func start(t *testing.T) *world {
	t.Helper()
	w := &world{sysdir: filepath.Join(place, "services"), rundir: "/run/sysmgr", bin: filepath.Join(place, "bin"), log: filepath.Join(place, "log")}
	build := exec.Command("go", "build", "-o", w.bin+"/", "sysmgr/cmd/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if err := os.Mkdir(w.sysdir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.env = append(os.Environ(), "SYSDIR="+w.sysdir, "RUNDIR="+w.rundir, "PATH="+w.bin+":"+os.Getenv("PATH"))
	log, err := os.Create(w.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(w.bin, "sysmgr"))
	cmd.Env, cmd.Stdout, cmd.Stderr = w.env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(unix.SIGTERM)
		late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
		defer late.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("sysmgr: %v", err)
		}
		if text, err := os.ReadFile(w.log); err == nil && t.Failed() {
			t.Logf("the log:\n%s", text)
		}
	})
	soon(t, "sysmgr runs", func() bool { return exists(filepath.Join(w.rundir, "pid")) })
	return w
}

// run runs a program, with ours in its path.
func (w *world) run(args ...string) (string, error) {
	cmd := exec.Command("env", args...) // env, because it looks into that path
	cmd.Env = w.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (w *world) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := w.run(args...)
	if err != nil {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
	return out
}

// link makes a script of contrib a service.
func (w *world) link(t *testing.T, script, name string) {
	t.Helper()
	target, err := filepath.Abs("../../contrib/services/" + script)
	if err == nil {
		err = os.Symlink(target, filepath.Join(w.sysdir, name))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// script makes a service of our own.
func (w *world) script(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(w.sysdir, name)
	if err := os.WriteFile(path+".tmp", []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		t.Fatal(err)
	}
}

// process is the main process of a service.
func (w *world) process(t *testing.T, name string) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(w.rundir, name, "syspid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// session lists the processes of the session that a process leads.
func session(leader int) (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, _ := os.ReadFile(path)
		// proc_pid_stat(5): behind the name are state, ppid, pgrp, session.
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(fields) > 3 && fields[3] == strconv.Itoa(leader) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids = append(pids, pid)
		}
	}
	return pids
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func contains(path, text string) bool {
	data, _ := os.ReadFile(path)
	return strings.Contains(string(data), text)
}

// soon waits for what has no event to wait for.
func soon(t *testing.T, what string, yes func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !yes(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(text), mode)
	}
	if err == nil {
		err = os.Chmod(path, mode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// answers tells whether somebody listens on a port.
func answers(port int) bool {
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err == nil {
		c.Close()
	}
	return err == nil
}

// trial is a script of contrib that is tried out.
type trial struct {
	script  string
	name    string // of the service; empty: as the script
	program string // what it needs
	from    string // the Debian package that has it
	port    int    // on which it listens, 0 for none
	dull    bool   // it may not end before KILL
	prepare func(t *testing.T, w *world)
	check   func(t *testing.T, w *world)
}

var trials = []trial{
	{script: "sshd", program: "sshd", from: "openssh-server", port: 22, check: func(t *testing.T, w *world) {
		c, err := net.Dial("tcp", "127.0.0.1:22")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		if line, err := bufio.NewReader(c).ReadString('\n'); !strings.HasPrefix(line, "SSH-2.0-") {
			t.Errorf("got %q, %v, want the greeting of SSH", line, err)
		}
	}},
	{script: "cron", program: "cron", from: "cron", prepare: func(t *testing.T, w *world) {
		write(t, "/etc/cron.d/probe", "@reboot root touch /run/cron-was-here\n", 0o644)
	}, check: func(t *testing.T, w *world) {
		soon(t, "cron runs a job", func() bool { return exists("/run/cron-was-here") })
	}},
	{script: "syslogd", program: "busybox", from: "busybox-static", prepare: func(t *testing.T, w *world) {
		busybox := have.Program(t, "busybox", "busybox-static")
		if err := os.Symlink(busybox, filepath.Join(w.bin, "syslogd")); err != nil {
			t.Fatal(err)
		}
	}, check: func(t *testing.T, w *world) {
		soon(t, "syslogd listens", func() bool { return exists("/dev/log") })
		w.must(t, "busybox", "logger", "-t", "probe", "hello")
		soon(t, "syslogd writes", func() bool { return contains("/var/log/messages", "probe: hello") })
	}},
	{script: "dbus", program: "dbus-daemon", from: "dbus", check: func(t *testing.T, w *world) {
		soon(t, "dbus-daemon listens", func() bool { return exists("/run/dbus/system_bus_socket") })
		if out := w.must(t, "dbus-send", "--system", "--print-reply", "--dest=org.freedesktop.DBus", "/", "org.freedesktop.DBus.ListNames"); !strings.Contains(out, `"org.freedesktop.DBus"`) {
			t.Errorf("got %q, want the names on the bus", out)
		}
	}},
	{script: "chronyd", program: "chronyd", from: "chrony", prepare: func(t *testing.T, w *world) {
		// The clock of this machine is not ours.
		write(t, "/etc/default/chrony", "DAEMON_OPTS=\"-x -F 1\"\n", 0o644)
	}, check: func(t *testing.T, w *world) {
		soon(t, "chronyd listens", func() bool { return exists("/run/chrony/chronyd.sock") })
		if out := w.must(t, "chronyc", "-n", "tracking"); !strings.Contains(out, "Stratum") {
			t.Errorf("got %q, want how it goes", out)
		}
	}},
	{script: "dhcpcd", name: "dhcpcd-leased0", program: "dhcpcd", from: "dhcpcd5", dull: true, prepare: func(t *testing.T, w *world) {
		w.must(t, "ip", "link", "add", "leased0", "type", "veth", "peer", "name", "lessor0")
		w.must(t, "ip", "address", "add", "10.9.8.1/24", "dev", "lessor0")
		w.must(t, "ip", "link", "set", "lessor0", "up")
		write(t, "/run/udhcpd.conf", "start 10.9.8.50\nend 10.9.8.59\ninterface lessor0\nlease_file /run/udhcpd.leases\npidfile /run/udhcpd.pid\noption subnet 255.255.255.0\noption lease 3600\n", 0o644)
		write(t, "/run/udhcpd.leases", "", 0o644)
		write(t, "/etc/dhcpcd.conf", "noarp\nnoipv6\n", 0o644) // sooner
		w.script(t, "lessor", "#!/bin/sh\nexec busybox udhcpd -f /run/udhcpd.conf\n")
		w.must(t, "svctl", "-w", "60", "start", "lessor")
	}, check: func(t *testing.T, w *world) {
		soon(t, "dhcpcd gets an address", func() bool {
			out, _ := w.run("ip", "-4", "address", "show", "leased0")
			return strings.Contains(out, "inet 10.9.8.5")
		})
	}},
	{script: "wpa_supplicant", name: "wpa_supplicant-cable0", program: "wpa_supplicant", from: "wpasupplicant", prepare: func(t *testing.T, w *world) {
		w.must(t, "ip", "link", "add", "cable0", "type", "veth", "peer", "name", "cable1")
		write(t, "/etc/wpa_supplicant/wpa_supplicant-cable0.conf", "ctrl_interface=/run/wpa_supplicant\nap_scan=0\nnetwork={\n\tkey_mgmt=IEEE8021X\n\teap=MD5\n\tidentity=\"a\"\n\tpassword=\"b\"\n}\n", 0o600)
	}, check: func(t *testing.T, w *world) {
		soon(t, "wpa_supplicant listens", func() bool { return exists("/run/wpa_supplicant/cable0") })
		if out := w.must(t, "wpa_cli", "-p", "/run/wpa_supplicant", "-i", "cable0", "status"); !strings.Contains(out, "wpa_state=") {
			t.Errorf("got %q, want its state", out)
		}
	}},
	{script: "nginx", program: "nginx", from: "nginx-light", port: 80, check: func(t *testing.T, w *world) { get(t, 80) }},
	{script: "redis", program: "redis-server", from: "redis-server", port: 6379, check: func(t *testing.T, w *world) {
		if out := w.must(t, "redis-cli", "ping"); strings.TrimSpace(out) != "PONG" {
			t.Errorf("redis-cli ping: got %q, want PONG", out)
		}
	}},
	{script: "postgres", program: "pg_isready", from: "postgresql", port: 5432, check: func(t *testing.T, w *world) {
		w.must(t, "svctl", "-w", "60", "wait", "ready", "postgres")
		out := w.must(t, "setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "psql", "-Atc", "select 6*7", "postgres")
		if strings.TrimSpace(out) != "42" {
			t.Errorf("psql: got %q, want 42", out)
		}
	}},
	{script: "containerd", program: "containerd", from: "containerd", check: func(t *testing.T, w *world) {
		soon(t, "containerd listens", func() bool { _, err := w.run("ctr", "version"); return err == nil })
	}},
	{script: "as-user", program: "busybox", from: "busybox-static", port: 8080, prepare: func(t *testing.T, w *world) {
		write(t, "/srv/index.html", "hello\n", 0o644)
	}, check: func(t *testing.T, w *world) {
		if got := get(t, 8080); got != "hello\n" {
			t.Errorf("got %q, want the page", got)
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.process(t, "as-user")))
		if want := regexp.MustCompile(`(?m)^Uid:\s65534\s65534\s65534\s65534\nGid:\s65534\s65534\s65534\s65534\n(.*\n)*Groups:\s*\n(.*\n)*NoNewPrivs:\s1$`); !want.Match(status) {
			t.Errorf("got %v, %s, want nobody", err, status)
		}
	}},
	{script: "nightly", program: "snooze", from: "snooze", prepare: func(t *testing.T, w *world) {
		alone(t, "/etc/cron.daily", "#!/bin/sh\ntouch /run/nightly-was-here\n")
	}, check: func(t *testing.T, w *world) {
		if exists("/run/nightly-was-here") {
			t.Errorf("it did not wait for the night")
		}
		w.must(t, "svctl", "signal", "ALRM", "nightly")
		soon(t, "the job runs", func() bool { return exists("/run/nightly-was-here") })
		soon(t, "it is started again", func() bool { return contains(filepath.Join(w.rundir, "nightly/status"), "\nrestarts 1\n") })
		w.must(t, "svctl", "-w", "60", "wait", "up", "nightly")
	}},
	{script: "hourly", program: "run-parts", from: "debianutils", prepare: func(t *testing.T, w *world) {
		alone(t, "/etc/cron.hourly", "#!/bin/sh\ntouch /run/hourly-was-here\n")
	}, check: func(t *testing.T, w *world) {
		// The hour is over when its sleep is; but only what ends well goes on.
		main := w.process(t, "hourly")
		for _, pid := range session(main) {
			if pid != main {
				unix.Kill(pid, unix.SIGTERM)
			}
		}
		soon(t, "it is started again", func() bool { return contains(filepath.Join(w.rundir, "hourly/status"), "\nrestarts 1\n") })
		if exists("/run/hourly-was-here") {
			t.Errorf("a killed sleep counts as an hour")
		}
		w.must(t, "svctl", "-w", "60", "wait", "up", "hourly")
	}},
	{script: "log", name: "log-svlogd", program: "svlogd", from: "runit", prepare: pipeline("svlogd"), check: logged("svlogd", `^\d{4}-\d\d-\d\d_\d\d:\d\d:\d\d\.\d{5} line `)},
	{script: "log", name: "log-s6", program: "s6-log", from: "s6", prepare: pipeline("s6", "svlogd"), check: logged("s6", `^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{9}  line `)},
	{script: "log", name: "log-multilog", program: "multilog", from: "daemontools", prepare: pipeline("multilog", "svlogd", "s6-log"), check: logged("multilog", `^@[0-9a-f]{24} line `)},
	{script: "getty", name: "getty-probe0", program: "agetty", from: "util-linux", prepare: func(t *testing.T, w *world) {
		var err error
		if login, err = terminal("/dev/probe0"); err != nil {
			t.Fatal(err)
		}
	}, check: func(t *testing.T, w *world) {
		t.Cleanup(func() { login.Close() })
		var seen strings.Builder
		prompted := make(chan bool)
		go func() {
			buf := make([]byte, 1000)
			for !strings.Contains(seen.String(), "login: ") {
				n, err := login.Read(buf)
				if err == unix.EIO || n > 0 && err == nil {
					seen.Write(buf[:n])
				} else if err != nil && !strings.Contains(err.Error(), "input/output") {
					prompted <- false
					return
				}
			}
			prompted <- true
		}()
		select {
		case ok := <-prompted:
			if !ok {
				t.Errorf("got %q, want a prompt", seen.String())
			}
		case <-time.After(patience):
			t.Fatal("no prompt")
		}
		shown, _ := os.ReadFile(filepath.Join(w.rundir, "getty-probe0/pid"))
		if number := strings.TrimSpace(string(shown)); number == strconv.Itoa(w.process(t, "getty-probe0")) || !contains("/proc/"+number+"/comm", "agetty") {
			t.Errorf("the number shown: got %s, want that of agetty", number)
		}
	}},
}

// login is the other end of the terminal that getty has.
var login *os.File

// terminal makes a terminal with this name.
func terminal(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = os.Symlink(fmt.Sprintf("pts/%d", number), name)
	}
	return os.NewFile(uintptr(fd), "terminal"), err
}

// get asks a web server for its first page.
func get(t *testing.T, port int) string {
	t.Helper()
	client := http.Client{Timeout: patience}
	answer, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	page, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != 200 {
		t.Errorf("got %s, %v, want 200 OK", answer.Status, err)
	}
	return string(page)
}

// alone makes a job the only one of its folder.
func alone(t *testing.T, folder, text string) {
	t.Helper()
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(folder, "probe"), text, 0o755)
}

// pipeline makes what an admin makes for a log, and a service that writes into
// it. Loggers that the script would prefer are hidden.
func pipeline(name string, hidden ...string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		for _, program := range hidden {
			if path, err := exec.LookPath(program); err == nil {
				if err := unix.Mount("/dev/null", path, "", unix.MS_BIND, ""); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := unix.Mkfifo("/var/log/"+name+".fifo", 0o600); err != nil {
			t.Fatal(err)
		}
		w.script(t, name, "#!/bin/sh -e\nexec 1<>/var/log/"+name+".fifo 2>&1\ni=0\nwhile :; do i=$((i+1)); echo line $i; sleep 0.05; done\n")
	}
}

// logged sees that no line is lost when the logger is restarted and killed.
func logged(name, line string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		current := "/var/log/" + name + "/current"
		more := func(than int) {
			t.Helper()
			soon(t, name+" writes", func() bool { return lines(current) > than })
		}
		more(3)
		w.must(t, "svctl", "-w", "60", "stop", "log-"+name)
		w.must(t, "svctl", "-w", "60", "start", "log-"+name)
		more(lines(current) + 3)
		w.must(t, "svctl", "stop", name)
		files, _ := filepath.Glob("/var/log/" + name + "/[@c_]*")
		var text []byte
		for _, file := range files { // older ones begin with @, which comes first
			data, _ := os.ReadFile(file)
			text = append(text, data...)
		}
		re := regexp.MustCompile(line + `(\d+)$`)
		for i, l := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
			found := re.FindStringSubmatch(l)
			if found == nil || found[1] != strconv.Itoa(i+1) {
				t.Fatalf("line %d of the log: got %q", i+1, l)
			}
		}
	}
}

func lines(path string) int {
	data, _ := os.ReadFile(path)
	return bytes.Count(data, []byte("\n"))
}

func TestServices(t *testing.T) {
	needed(t)
	ip := exec.Command("ip", "link", "set", "lo", "up")
	if out, err := ip.CombinedOutput(); err != nil {
		t.Fatalf("ip: %v\n%s", err, out)
	}
	w := start(t)
	for _, tr := range trials {
		if tr.name == "" {
			tr.name = tr.script
		}
		t.Run(tr.name, func(t *testing.T) {
			have.Program(t, tr.program, tr.from)
			if tr.prepare != nil {
				tr.prepare(t, w)
			}
			w.link(t, tr.script, tr.name)
			w.must(t, "svctl", "-w", "60", "start", tr.name)
			if tr.port != 0 {
				soon(t, "it listens", func() bool { return answers(tr.port) })
			}
			tr.check(t, w)
			leader := w.process(t, tr.name)
			begin := time.Now()
			w.must(t, "svctl", "-w", "60", "stop", tr.name)
			t.Logf("stopped in %s", time.Since(begin).Round(time.Millisecond))
			if left := session(leader); len(left) > 0 {
				t.Errorf("left over: processes %v", left)
			}
			if tr.port != 0 && answers(tr.port) {
				t.Errorf("somebody still listens on port %d", tr.port)
			}
			if why := killed(t, w, tr.name); why != "" && !tr.dull {
				t.Errorf("its end: got %s, want one without KILL", why)
			}
		})
	}
}

// killed is the last exit of a service, if that was by KILL.
func killed(t *testing.T, w *world, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(w.rundir, name, "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if why, ok := strings.CutPrefix(line, "last-exit "); ok && strings.Contains(why, "KILL") {
			return strings.TrimSpace(why)
		}
	}
	return ""
}
