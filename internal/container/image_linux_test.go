package container

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sysmgr/internal/have"
)

// image is what the Containerfile says of the image.
type image struct {
	root       string
	user       string
	env        []string
	entrypoint []string
}

// built makes the image, as far as that goes without a container engine: it
// runs the commands of the Containerfile here, but for those that install
// packages, and reads the rest.
func built(t *testing.T) image {
	t.Helper()
	needed(t)
	busybox := have.Program(t, "busybox", "busybox-static")
	if f, err := elf.Open(busybox); err != nil || slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		have.Not(t, "%s is not static (apt-get install busybox-static)", busybox)
	}
	dir, err := os.MkdirTemp(filepath.Dir(bin), "image-")
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir, 0o755)
	im := image{root: filepath.Join(dir, "out")}
	text, err := os.ReadFile("../../contrib/container/Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	stages := 0
	for line := range strings.Lines(string(text)) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "", "#", "WORKDIR", "EXPOSE":
		case "FROM":
			if stages++; stages == 2 && rest != "scratch" {
				t.Errorf("the image is made from %s, want scratch", rest)
			}
		case "COPY":
			if rest != ". ." && rest != "--from=build /out /" {
				t.Errorf("COPY %s: the test does not know how", rest)
			}
		case "RUN":
			if strings.HasPrefix(rest, "apt-get ") {
				continue
			}
			cmd := exec.Command("sh", "-exc", rest)
			cmd.Dir = "../.."
			cmd.Env = append(os.Environ(), "OUT="+im.root, "MAKEFLAGS=-- BIN="+filepath.Join(dir, "bin"))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("RUN %s: %v\n%s", rest, err, out)
			}
		case "USER":
			im.user = rest
		case "ENV":
			if stages == 2 {
				im.env = strings.Fields(rest)
			}
		case "ENTRYPOINT":
			if err := json.Unmarshal([]byte(rest), &im.entrypoint); err != nil {
				t.Fatalf("ENTRYPOINT %s: %v", rest, err)
			}
		default:
			t.Errorf("%s: the test does not know what that is", line)
		}
	}
	if stages != 2 || len(im.entrypoint) == 0 || im.user == "" {
		t.Fatalf("the Containerfile: got %d stages, entry point %q, user %q", stages, im.entrypoint, im.user)
	}
	return im
}

// In the image there are only static programs and scripts.
func TestImageNeedsNothingElse(t *testing.T) {
	im := built(t)
	programs := 0
	err := filepath.WalkDir(im.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := elf.Open(path)
		if err != nil {
			return nil
		}
		defer f.Close()
		programs++
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP {
				t.Errorf("%s is not static", path)
			}
		}
		return nil
	})
	if err != nil || programs != 5 {
		t.Errorf("programs in the image: got %d, %v, want our four and busybox", programs, err)
	}
}

// tmpfs is the mode of a /run that "docker run --tmpfs /run" makes, emptyDir
// that of a volume of Kubernetes.
const (
	tmpfs    = 0o777 | os.ModeSticky
	emptyDir = 0o777
)

// run starts the image: its root is read-only but for an empty /run of this
// mode, and the user has no name.
func (im image) run(t *testing.T, user string, command []string, run os.FileMode) *container {
	t.Helper()
	c := prepared(t)
	c.rundir = filepath.Join(filepath.Dir(c.sysdir), "run/sysmgr")
	tmp := filepath.Dir(c.rundir)
	if err := os.Mkdir(tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(tmp, run); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf(`
		mount --bind %[1]s %[1]s
		mount -o remount,bind,ro %[1]s
		mount --bind %[2]s %[1]s/run
		mount --bind /dev %[1]s/dev
		mount -t proc proc %[1]s/proc
		chroot %[1]s /bin/ip link set lo up
		exec chroot --userspec=%[4]s --groups= %[1]s /bin/env -i %[3]s "$@"
	`, im.root, tmp, strings.Join(im.env, " "), user)
	c.start(script, command...)
	return c
}

// inside runs a command in the container, as "docker exec" does.
func (c *container) inside(im image, user string, command ...string) (string, int) {
	c.t.Helper()
	uid, gid, _ := strings.Cut(user, ":")
	args := append([]string{"--target", fmt.Sprint(c.cmd.Process.Pid), "--mount", "--net", "--pid", "--root", "--wd", "--setuid", uid, "--setgid", gid, "--"}, command...)
	cmd := exec.Command("nsenter", args...)
	cmd.Env = im.env
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		c.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// The image runs, as a user without a name and with nothing to write to but
// /run; the probes of the Kubernetes manifest tell how it is.
func TestImageRuns(t *testing.T) {
	im := built(t)
	for _, user := range []string{im.user, "54321:54321"} {
		t.Run(user, func(t *testing.T) {
			c := im.run(t, user, im.entrypoint, tmpfs)
			up := func() bool { _, code := c.inside(im, user, "/usr/bin/svctl", "-q", "status"); return code == 0 }
			c.soon("all is up", up)
			page := func() bool {
				out, code := c.inside(im, user, "/bin/wget", "-q", "-O", "-", "http://127.0.0.1:8080/")
				return code == 0 && strings.Contains(out, "20")
			}
			c.soon("the page is served", page)
			if out, code := c.inside(im, user, "/bin/touch", "/var/sysmgr/x"); code == 0 || !strings.Contains(out, "Read-only") {
				t.Errorf("writing outside of /run: got %q, %d, want a failure", out, code)
			}
			if out, code := c.inside(im, user, "/bin/sh", "-c", "id -u; cat /proc/1/comm /proc/1/status"); code != 0 ||
				!strings.HasPrefix(out, strings.Split(user, ":")[0]+"\nsysmgr\n") || strings.Contains(out, "Uid:\t0") {
				t.Errorf("process 1: got %d, %.200q", code, out)
			}
			// Not all is up: the probe fails.
			if out, code := c.inside(im, user, "/usr/bin/svctl", "stop", "clock"); code != 0 {
				t.Fatalf("svctl stop: got %d, %s", code, out)
			}
			if up() {
				t.Error("svctl -q status: got 0, with a service that is down")
			}
			c.cmd.Process.Signal(unix.SIGTERM)
			c.exits(0)
		})
	}
}

// Where everybody may replace the run directory, as in an emptyDir, sysmgr does
// not start, and says why: the manifest has none.
func TestEmptyDirIsRefused(t *testing.T) {
	im := built(t)
	c := im.run(t, im.user, im.entrypoint, emptyDir)
	c.ends(1)
	if text, err := os.ReadFile(c.log); !strings.Contains(string(text), "others may write to its parent /run") {
		t.Errorf("got %q, %v, want the reason", text, err)
	}
}

// The manifest is what Kubernetes takes, and every command in it works.
func TestManifest(t *testing.T) {
	im := built(t)
	manifest, err := os.Open("../../contrib/container/kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer manifest.Close()
	check := exec.Command("go", "run", ".")
	check.Dir, check.Stdin = "schema", manifest
	out, err := check.Output()
	if err != nil {
		if download := exec.Command("go", "mod", "download"); func() error { download.Dir = "schema"; return download.Run() }() != nil {
			have.Not(t, "the types of Kubernetes cannot be had")
		}
		t.Fatalf("go run ./schema: %v\n%s", err, err.(*exec.ExitError).Stderr)
	}
	var command []string
	var probes [][]string
	for line := range strings.Lines(string(out)) {
		word, rest, _ := strings.Cut(line, " ")
		var words []string
		switch {
		case word == "command" && json.Unmarshal([]byte(rest), &words) == nil:
			command = words
		case word == "probe" && json.Unmarshal([]byte(rest), &words) == nil:
			probes = append(probes, words)
		}
	}
	if len(command) == 0 || len(probes) != 3 {
		t.Fatalf("the manifest: got command %q and probes %q, want one and three", command, probes)
	}
	c := im.run(t, "10001:0", command, tmpfs)
	for _, probe := range probes {
		c.soon(fmt.Sprint(probe), func() bool { _, code := c.inside(im, "10001:0", probe...); return code == 0 })
	}
	c.cmd.Process.Signal(unix.SIGTERM)
	c.exits(0)
}
