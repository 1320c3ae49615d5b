package vm

import (
	"bufio"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"sysmgr/internal/have"
)

// patience is how long anything may take: the machine is emulated, and the
// one that does it may be busy.
const patience = 3 * time.Minute

const root = "../.."

// machine is a running virtual machine, and its serial console.
type machine struct {
	t       *testing.T
	in      io.Writer
	lines   chan string // what the console prints
	seen    []string    // all of it
	stopped chan error  // how QEMU ended
}

// boot starts a machine with these files in its root, and returns when the
// console is there.
func boot(t *testing.T, kernel, qemu, initrd string) *machine {
	t.Helper()
	cmd := exec.Command(qemu, "-accel", "tcg", "-m", "256", "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio",
		"-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 panic=-1 quiet")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, in: in, lines: make(chan string, 100), stopped: make(chan error, 1)}
	go func() {
		defer close(m.lines)
		text := bufio.NewScanner(out)
		for text.Scan() {
			m.lines <- strings.TrimRight(text.Text(), "\r")
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		for line := range m.lines {
			m.seen = append(m.seen, line)
		}
		m.stopped <- cmd.Wait()
		if t.Failed() {
			t.Logf("the console:\n%s", strings.Join(m.seen, "\n"))
		}
	})
	m.until("@ready@")
	return m
}

// until reads the console up to a line that has this text in it, and returns
// what it read, the line included.
func (m *machine) until(text string) string {
	m.t.Helper()
	var read strings.Builder
	late := time.After(patience)
	for {
		select {
		case line, ok := <-m.lines:
			if !ok {
				m.t.Fatalf("the machine ended while waiting for %q", text)
			}
			m.seen = append(m.seen, line)
			read.WriteString(line + "\n")
			if strings.Contains(line, text) {
				return read.String()
			}
		case <-late:
			m.t.Fatalf("waited in vain for %q", text)
		}
	}
}

var answer = regexp.MustCompile(`(?s)@begin@([0-9]+)@(.*)@end@`)

// run runs a shell command on the machine.
func (m *machine) run(command string) (out string, code int) {
	m.t.Helper()
	fmt.Fprintln(m.in, command)
	found := answer.FindStringSubmatch(m.until("@end@"))
	if found == nil {
		m.t.Fatalf("%s: got no answer", command)
	}
	code, _ = strconv.Atoi(found[1])
	return found[2], code
}

// must runs a command that has to succeed.
func (m *machine) must(command string) string {
	m.t.Helper()
	out, code := m.run(command)
	if code != 0 {
		m.t.Fatalf("%s: got exit status %d, want 0\n%s", command, code, out)
	}
	return out
}

// soon runs a command until it succeeds.
func (m *machine) soon(command string) string {
	m.t.Helper()
	return m.must(fmt.Sprintf("for i in $(seq %d); do if { %s; }; then break; fi; usleep 100000; done; %s",
		int(patience/time.Second)*5, command, command))
}

// services is the state of all services, by name.
func (m *machine) services() map[string]service {
	m.t.Helper()
	out, _ := m.run("svctl -j status")
	var list []service
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		m.t.Fatalf("svctl -j status: %v\n%s", err, out)
	}
	all := make(map[string]service)
	for _, s := range list {
		all[s.Name] = s
	}
	return all
}

// running is true when there is a daemon.
const running = "{ svctl -q status; test $? -lt 2; }"

type service struct {
	Name, Phase string
	Pid, Starts int
	Clock       float64
}

// processes are those with a text in their command line.
func (m *machine) processes(text string) []string {
	m.t.Helper()
	// The last character in brackets, so that grep does not find itself.
	return strings.Fields(m.must(fmt.Sprintf("cd /proc && for p in [0-9]*; do tr '\\0' ' ' <$p/cmdline | grep -q '%s[%s]' && echo $p; done; cd /",
		text[:len(text)-1], text[len(text)-1:])))
}

// copied puts a file into the machine's root.
func copied(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o755)
	}
	if err == nil {
		err = os.WriteFile(to, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// files makes the root of the machine and packs it.
func files(t *testing.T, busybox, cpio string) (initrd string) {
	t.Helper()
	dir := t.TempDir()
	top := filepath.Join(dir, "root")
	install := exec.Command("make", "-s", "-C", root, "install", "BIN="+filepath.Join(dir, "bin"),
		"DESTDIR="+top, "PREFIX=/usr", "SBINDIR=/usr/bin")
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("make install: %v\n%s", err, out)
	}
	for _, folder := range []string{"proc", "sys", "dev", "run", "tmp", "root", "var/log"} {
		if err := os.MkdirAll(filepath.Join(top, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	copied(t, busybox, filepath.Join(top, "bin/busybox"))
	for _, link := range []string{"bin/sh", "bin/mount", "init"} {
		if err := os.Symlink("/bin/busybox", filepath.Join(top, link)); err != nil {
			t.Fatal(err)
		}
	}
	copied(t, "testdata/rc", filepath.Join(top, "etc/rc"))
	copied(t, "testdata/console", filepath.Join(top, "etc/console"))
	services, err := filepath.Glob("testdata/services/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"syslogd", "klogd"} {
		services = append(services, filepath.Join(root, "contrib/services", name))
	}
	for _, path := range services {
		copied(t, path, filepath.Join(top, "var/sysmgr", filepath.Base(path)))
	}
	// The lines of contrib are those that are tried here.
	lines, err := os.ReadFile(filepath.Join(root, "contrib/init/inittab.busybox"))
	if err != nil {
		t.Fatal(err)
	}
	inittab := "::sysinit:/etc/rc\nttyS0::respawn:/etc/console\n" + string(lines)
	if err := os.WriteFile(filepath.Join(top, "etc/inittab"), []byte(inittab), 0o644); err != nil {
		t.Fatal(err)
	}
	initrd = filepath.Join(dir, "initrd")
	pack := exec.Command("sh", "-c", `find . | "$1" -o -H newc -R 0:0 --quiet >"$2"`, "sh", cpio, initrd)
	pack.Dir = top
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	return initrd
}

func TestMachine(t *testing.T) {
	kernel, asked := os.LookupEnv("SYSMGR_VM_KERNEL")
	if !asked {
		t.Skip("make test-vm runs this")
	}
	if runtime.GOARCH != "amd64" {
		have.Not(t, "written for amd64 only")
	}
	qemu := have.Program(t, "qemu-system-x86_64", "qemu-system-x86")
	cpio := have.Program(t, "cpio", "cpio")
	busybox := have.Program(t, "busybox", "busybox-static")
	if !static(busybox) {
		have.Not(t, "%s is not static (apt-get install busybox-static)", busybox)
	}
	if kernel == "" {
		have.Not(t, "there is no kernel")
	}
	m := boot(t, kernel, qemu, files(t, busybox, cpio))

	// Services are up after boot.
	m.soon(running)
	m.must("svctl -w 120 wait up /var/sysmgr/*")
	last := 0.0
	for _, s := range m.services() {
		last = max(last, s.Clock)
	}
	t.Logf("from kernel start to the last service up: %.1f s", last)

	// What the kernel says is logged, by two scripts of contrib.
	m.must("echo hello, kernel >/dev/kmsg")
	m.soon("grep -q 'hello, kernel' /var/log/messages")

	// A killed service comes back.
	before := m.services()
	m.must("kill -9 $(cat /run/sysmgr/db/pid)")
	m.soon(fmt.Sprintf("grep -qx 'starts %d' /run/sysmgr/db/status", before["db"].Starts+1))
	m.must("svctl -w 120 wait up db")

	// One that was stopped stays so, and what runs keeps its process, when
	// sysmgr is killed: init starts it again.
	m.must("svctl -w 120 stop held")
	before = m.services()
	daemon := strings.TrimSpace(m.must("cat /run/sysmgr/pid"))
	m.must("kill -9 " + daemon)
	m.soon(running + " && ! grep -qx " + daemon + " /run/sysmgr/pid")
	m.must("svctl -w 120 wait up web db")
	after := m.services()
	for name, s := range before {
		if got := after[name]; got.Pid != s.Pid || got.Phase != s.Phase {
			t.Errorf("%s, when sysmgr was killed: got process %d, %s; want %d, %s", name, got.Pid, got.Phase, s.Pid, s.Phase)
		}
	}
	if got := m.processes("sleep 1001"); len(got) != 0 {
		t.Errorf("held, when sysmgr was killed: got processes %v, want none", got)
	}
	if got := m.processes("/var/sysmgr/db"); len(got) != 1 {
		t.Errorf("copies of db, when sysmgr was killed: got processes %v, want one", got)
	}
	m.must("svctl -w 120 start held")

	// A new file is picked up.
	m.must(`printf '#!/bin/sh\nexec sleep 1002\n' >/tmp/new; chmod +x /tmp/new; mv /tmp/new /var/sysmgr/`)
	m.must("svctl -w 120 wait up new")

	// The machine goes off, and everything was stopped before, in order.
	fmt.Fprintln(m.in, "poweroff")
	end := m.until("@stopped db@")
	if !strings.Contains(end, "@stopped web@") {
		t.Errorf("poweroff: db was stopped before web, which needs it")
	}
	if end := m.until("Power down"); strings.Contains(end, "svctl:") {
		t.Errorf("poweroff: svctl was not content")
	}
	for line := range m.lines {
		m.seen = append(m.seen, line)
	}
}

// static tells whether a program needs no other file to run.
func static(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false
		}
	}
	return true
}
