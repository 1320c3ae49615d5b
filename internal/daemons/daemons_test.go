//go:build linux

package daemons

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// deadline is how long anything may take: long, because machines are slow.
const deadline = 90 * time.Second

// needed are the programs, and the packages of Debian that have them.
var needed = map[string]string{
	"dbus-daemon": "dbus-daemon", "dbus-send": "dbus-bin",
	"redis-server": "redis-server", "redis-cli": "redis-tools",
	"postgres": "postgresql", "initdb": "postgresql", "psql": "postgresql-client", "pg_isready": "postgresql-client",
	"nginx": "nginx-light", "curl": "curl", "setpriv": "util-linux",
}

// recipes are the scripts in the section of sysmgr(8) on readiness, by the
// program that they end with.
func recipes(t *testing.T) map[string]string {
	page, err := os.ReadFile("../../man/sysmgr.8")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "\n.Ss Saying that it is ready\n")
	text, _, _ = strings.Cut(text, "\n.Ss ")
	scripts := make(map[string]string)
	for _, part := range strings.Split(text, "\n.Bd -literal -offset indent\n")[1:] {
		script, _, _ := strings.Cut(part, "\n.Ed")
		script = strings.ReplaceAll(script, `\e`, `\`) + "\n"
		for _, name := range []string{"redis", "nginx", "postgres", "nobody", "dbus"} {
			if strings.Contains(script[strings.LastIndex(script, "sysmgr")+1:], name) || strings.Contains(script, "exec "+name) {
				scripts[name] = script
				break
			}
		}
	}
	if len(scripts) != 5 {
		t.Fatalf("the manual has recipes for %d services, want 5: %q", len(scripts), scripts)
	}
	return scripts
}

// place is where everything is, and the ports of this run.
type place struct {
	t                     *testing.T
	dir                   string
	bin, sys, run         string
	redis, postgres, http int
	daemon                *exec.Cmd
}

// newPlace makes one, or skips the test.
func newPlace(t *testing.T) *place {
	if os.Getenv("SYSMGR_TEST_DAEMONS") == "" {
		t.Skip("run by: make test-daemons")
	}
	if os.Geteuid() != 0 {
		t.Skip("it needs root, for postgres wants to be another user")
	}
	if dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin"); len(dirs) > 0 {
		t.Setenv("PATH", os.Getenv("PATH")+":"+dirs[len(dirs)-1])
	}
	var missing []string
	for program, in := range needed {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, in)
		}
	}
	if slices.Sort(missing); len(missing) > 0 {
		t.Skipf("not installed, so real daemons are not tested: apt-get install %s", strings.Join(slices.Compact(missing), " "))
	}
	dir, err := os.MkdirTemp("", "sysmgr-daemons")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &place{t: t, dir: dir, bin: dir + "/bin", sys: dir + "/sys", run: dir + "/run"}
	p.redis, p.postgres, p.http = freePort(t), freePort(t), freePort(t)
	p.must(os.Chmod(dir, 0o755)) // other users have to get at it
	for _, sub := range []string{p.bin, p.sys, dir + "/redis", dir + "/postgres", dir + "/nginx", dir + "/www"} {
		p.must(os.Mkdir(sub, 0o755))
	}
	if out, err := exec.Command("go", "build", "-o", p.bin+"/", "sysmgr/cmd/...").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	t.Setenv("PATH", p.bin+":"+os.Getenv("PATH"))
	t.Setenv("SYSDIR", p.sys)
	t.Setenv("RUNDIR", p.run)
	return p
}

func (p *place) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) write(file, format string, args ...any) {
	p.t.Helper()
	p.must(os.WriteFile(filepath.Join(p.dir, file), fmt.Appendf(nil, format, args...), 0o644))
}

// service writes one, complete at once.
func (p *place) service(name, script string) {
	p.t.Helper()
	tmp := filepath.Join(p.sys, "."+name)
	p.must(os.WriteFile(tmp, []byte(script), 0o755))
	p.must(os.Rename(tmp, filepath.Join(p.sys, name)))
}

// sh runs a shell command and returns what it printed.
func (p *place) sh(command string) (string, error) {
	cmd := exec.Command("sh", "-c", command)
	cmd.Dir = p.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	p.must(cmd.Start())
	late := time.AfterFunc(deadline, func() { unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	defer late.Stop()
	err := cmd.Wait()
	return out.String(), err
}

// do is sh for what has to succeed.
func (p *place) do(command string) string {
	p.t.Helper()
	out, err := p.sh(command)
	if err != nil {
		log, _ := os.ReadFile(p.dir + "/log")
		status, _ := p.sh("svctl status -t")
		p.t.Fatalf("%s: %v\n%s\n%s\nthe log:\n%s", command, err, out, status, log)
	}
	return out
}

// freePort asks the kernel for a port that nobody uses.
func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// replace puts this machine's places into a script; each of them must be there.
func replace(t *testing.T, script string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(script, pairs[i]) {
			t.Fatalf("the recipe has no %q:\n%s", pairs[i], script)
		}
		script = strings.ReplaceAll(script, pairs[i], pairs[i+1])
	}
	return script
}

// clients are the commands that show that a daemon answers, and what they print.
func (p *place) clients() map[string][2]string {
	return map[string][2]string{
		"dbus":     {fmt.Sprintf("dbus-send --bus=unix:path=%s/bus --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.ListNames", p.dir), "org.freedesktop.DBus"},
		"redis":    {fmt.Sprintf("redis-cli -p %d incr starts", p.redis), ""},
		"postgres": {fmt.Sprintf("psql -X -h 127.0.0.1 -p %d -U postgres -Atc 'select 6*7'", p.postgres), "42"},
		"nginx":    {fmt.Sprintf("curl -fsS http://127.0.0.1:%d/page", p.http), "a page"},
	}
}

// answers asks every daemon.
func (p *place) answers() {
	p.t.Helper()
	for name, client := range p.clients() {
		if out := p.do(client[0]); !strings.Contains(out, client[1]) {
			p.t.Fatalf("%s: got %q, want %q", name, out, client[1])
		}
	}
}

// pid is the main process of a service.
func (p *place) pid(name string) int {
	p.t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(p.do("cat run/" + name + "/pid")))
	p.must(err)
	return pid
}

// left lists the processes that were started here.
func (p *place) left() (left []string) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		env, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if bytes.Contains(env, []byte("RUNDIR="+p.run+"\x00")) && bytes.Contains(env, []byte("SYSMGR_NAME=")) {
			comm, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
			left = append(left, e.Name()+" "+strings.TrimSpace(string(comm)))
		}
	}
	return left
}

func (p *place) start() {
	log, err := os.Create(p.dir + "/log")
	p.must(err)
	defer log.Close()
	p.daemon = exec.Command("sysmgr", "-t", "30")
	p.daemon.Dir = p.dir
	p.daemon.Stdout, p.daemon.Stderr = log, log
	p.must(p.daemon.Start())
	p.t.Cleanup(func() {
		if p.daemon.ProcessState == nil {
			p.daemon.Process.Signal(unix.SIGTERM)
			p.daemon.Wait()
		}
		for _, process := range p.left() {
			p.t.Errorf("left over: %s", process)
			if pid, err := strconv.Atoi(strings.Fields(process)[0]); err == nil {
				unix.Kill(pid, unix.SIGKILL)
			}
		}
	})
}

func (p *place) populate() {
	p.write("bus.conf", `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path=%s/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>
`, p.dir)
	p.write("nginx.conf", `user nobody nogroup; pid %[1]s/nginx/pid; error_log stderr; worker_processes 2;
events {} http { access_log off; client_body_temp_path %[1]s/nginx/b; proxy_temp_path %[1]s/nginx/p;
fastcgi_temp_path %[1]s/nginx/f; uwsgi_temp_path %[1]s/nginx/u; scgi_temp_path %[1]s/nginx/s;
server { listen 127.0.0.1:%[2]d; root %[1]s/www; } }
`, p.dir, p.http)
	p.write("www/page", "a page\n")
	p.write("www/index.html", "here\n")
	p.do("chown postgres postgres && setpriv --reuid postgres --regid postgres --clear-groups initdb -D postgres -A trust -U postgres --no-sync")

	const first = "#!/bin/sh -e\n"
	recipe := recipes(p.t)
	port := strconv.Itoa
	p.service("dbus", first+"rm -f "+p.dir+"/bus\nexec dbus-daemon --config-file="+p.dir+"/bus.conf --nofork --nopidfile\n")
	p.service("redis", replace(p.t, recipe["redis"], first, first+"sysmgr-depends dbus\n",
		"6379", port(p.redis), "--port", "--bind 127.0.0.1 --dir "+p.dir+"/redis --port"))
	p.service("postgres", replace(p.t, recipe["postgres"], first, first+"sysmgr-depends dbus\n", "5432", port(p.postgres),
		"-D /var/lib/postgres", fmt.Sprintf("-D %[1]s/postgres -k %[1]s/postgres -h 127.0.0.1 -p %[2]d", p.dir, p.postgres)))
	p.service("nginx", replace(p.t, recipe["nginx"], first, first+"sysmgr-depends -r redis postgres\n",
		"localhost:80", "127.0.0.1:"+port(p.http), "nginx -g", "nginx -c "+p.dir+"/nginx.conf -g"))
	p.service("drops", recipe["nobody"])
	p.service("asks", replace(p.t, recipe["dbus"], "/run/dbus/system_bus_socket", p.dir+"/bus"))
}

// after fails the test unless the log has the one line behind the other, from
// some place on.
func (p *place) after(from int, later, earlier string) {
	p.t.Helper()
	log, err := os.ReadFile(p.dir + "/log")
	p.must(err)
	one := regexp.MustCompile(later).FindIndex(log[from:])
	two := regexp.MustCompile(earlier).FindIndex(log[from:])
	if one == nil || two == nil || one[0] < two[0] {
		p.t.Errorf("not in this order: %q, %q in\n%s", earlier, later, log[from:])
	}
}

// mark is where the log ends now.
func (p *place) mark() int {
	info, err := os.Stat(p.dir + "/log")
	p.must(err)
	return int(info.Size())
}

// stopsInOrder looks into the log from some place on.
func (p *place) stopsInOrder(from int) {
	p.t.Helper()
	const stopping, down = `service stopping\s.*"service": "%s"`, `service down\s.*"service": "%s"`
	for _, pair := range [][2]string{{"nginx", "redis"}, {"nginx", "postgres"}, {"redis", "dbus"}, {"postgres", "dbus"}, {"asks", "dbus"}} {
		p.after(from, fmt.Sprintf(stopping, pair[1]), fmt.Sprintf(down, pair[0]))
	}
}

func TestRealDaemons(t *testing.T) {
	p := newPlace(t)
	p.populate()
	p.start()
	all := []string{"dbus", "redis", "postgres", "nginx", "asks", "drops"}
	ready := "until svctl -q -w 90 wait ready redis postgres nginx drops; do sleep 0.1; done; svctl -w 90 wait up dbus asks"
	p.do(ready)
	p.answers()
	p.do("test run/nginx/ready -nt run/redis/ready && test run/nginx/ready -nt run/postgres/ready")
	t.Log(p.do("svctl status -t"))

	var objects []struct {
		Name  string
		Needs []string
	}
	p.must(json.Unmarshal([]byte(p.do("svctl status -j")), &objects))
	needs := make(map[string]string)
	for _, o := range objects {
		needs[o.Name] = strings.Join(o.Needs, " ")
	}
	want := map[string]string{"dbus": "", "redis": "dbus", "postgres": "dbus", "nginx": "redis postgres", "asks": "dbus", "drops": ""}
	if fmt.Sprint(needs) != fmt.Sprint(want) {
		t.Errorf("needs: got %v, want %v", needs, want)
	}
	if owner := p.do("stat -c %U run/drops/ready"); owner != "nobody\n" {
		t.Errorf("drops: ready is of %q, want nobody", owner)
	}

	for _, name := range all {
		before := make(map[string]int)
		for _, other := range all {
			before[other] = p.pid(other)
		}
		p.must(unix.Kill(before[name], unix.SIGKILL))
		p.do(fmt.Sprintf("until test -s run/%[1]s/pid && test $(cat run/%[1]s/pid) != %[2]d; do sleep 0.02; done", name, before[name]))
		p.do(ready)
		p.answers()
		for _, other := range all {
			if now := p.pid(other); (now == before[other]) != (other != name) {
				t.Errorf("%s was killed: the pid of %s was %d and is %d", name, other, before[other], now)
			}
		}
	}

	p.do("svctl -w 90 restart " + strings.Join(all, " "))
	p.do(ready)
	p.answers()

	from := p.mark()
	p.do("svctl -w 90 stop " + strings.Join(all, " "))
	p.stopsInOrder(from)
	if left := p.left(); left != nil {
		t.Errorf("left after stop: %v", left)
	}
	p.do("svctl -w 0 start nginx redis postgres dbus asks drops; " + ready)
	p.answers()

	from = p.mark()
	p.must(p.daemon.Process.Signal(unix.SIGTERM))
	if err := p.daemon.Wait(); err != nil {
		t.Errorf("the end of sysmgr: %v", err)
	}
	p.stopsInOrder(from)
	if left := p.left(); left != nil {
		t.Errorf("left after the end: %v", left)
	}
	for _, port := range []int{p.redis, p.postgres, p.http} {
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			t.Errorf("left after the end: port %d: %v", port, err)
			continue
		}
		l.Close()
	}
	if _, err := os.Stat(p.run); err == nil {
		t.Errorf("%s is still there", p.run)
	}
}
