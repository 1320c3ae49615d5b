//go:build linux

package load

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sysmgr/control"
	"sysmgr/internal/load/rig"
	"sysmgr/internal/rundir"
)

// setting reads a number from the environment: LOAD_SEED repeats a run as far
// as that is possible, LOAD_OPS makes it longer.
func setting(t *testing.T, key string, usual uint64) uint64 {
	word := os.Getenv(key)
	if word == "" {
		return usual
	}
	n, err := strconv.ParseUint(word, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return n
}

// The witness of the test below has to be able to say that there are two.
func TestSecondCopyOfAVictimIsRecorded(t *testing.T) {
	r := rig.New(t, rig.Plain)
	copyOf := func(name string) *exec.Cmd {
		cmd := exec.Command(rig.Program(t, rig.Plain, "victim"))
		cmd.Env = []string{"VICTIM_DIR=" + r.Work, "SYSMGR_NAME=" + name}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		return cmd
	}
	r.Plan("one", "child")
	first := copyOf("one")
	r.Until("the first copy", func() bool { return len(r.Journalled("child", "one")) == 1 }, r.Work)
	copyOf("other")
	r.Until("another service", func() bool { return len(r.Journalled("start", "other")) == 1 }, r.Work)
	if dups := r.Journalled("DUP", "other"); len(dups) != 0 {
		t.Errorf("a service with another name: got DUP of %v, want none", dups)
	}

	second := copyOf("one")
	second.Wait()
	if got, want := r.Journalled("DUP", "one"), []int{second.Process.Pid}; !slices.Equal(got, want) {
		t.Errorf("a second copy: got DUP of %v, want of %v", got, want)
	}
	// What the first left behind is a part of it.
	first.Process.Kill()
	first.Wait()
	third := copyOf("one")
	third.Wait()
	if got, want := r.Journalled("DUP", "one"), []int{second.Process.Pid, third.Process.Pid}; !slices.Equal(got, want) {
		t.Errorf("a copy beside the child of a dead one: got DUP of %v, want of %v", got, want)
	}
	for _, pid := range r.Journalled("child", "one") {
		child, err := os.FindProcess(pid)
		if err != nil {
			t.Fatal(err)
		}
		child.Kill()
	}
}

// order is one order of a client, as the client saw it.
type order struct {
	service string
	verb    control.Verb
	id      string // empty when svctl made it
	placed  bool   // it must have been taken
	maybe   bool   // nobody can tell whether it was
}

// crowd is the clients of the stress test, and the services they share.
type crowd struct {
	*testing.T
	rig      *rig.Rig
	services []string
}

var verbs = []control.Verb{control.Start, control.Stop, control.Restart, control.Once, control.Kill}

// client gives random orders, as many as asked for, and returns them. It gives
// up when something goes wrong, since that may well go wrong again.
func (c crowd) client(draw *rand.Rand, count int) []order {
	client := c.rig.Connect()
	defer client.Close()
	orders := make([]order, count)
	for i := range orders {
		if c.Failed() {
			return orders[:i]
		}
		o := &orders[i]
		o.service = c.services[draw.IntN(1+draw.IntN(len(c.services)))] // some are crowded
		o.verb = verbs[draw.IntN(len(verbs))]
		if draw.IntN(12) == 0 {
			c.svctl(o, draw)
		} else {
			c.pursue(client, o, draw)
		}
		if draw.IntN(8) == 0 {
			time.Sleep(time.Duration(draw.IntN(20)) * time.Millisecond)
		}
	}
	return orders
}

// goal is what svctl waits for with a verb.
func goal(verb control.Verb) control.Goal {
	switch verb {
	case control.Stop, control.Kill:
		return control.Stopped
	case control.Once:
		return control.Running(true)
	}
	return control.Running(false)
}

// pursue gives an order in this process: it waits until the order is placed,
// or taken, or has come to what it wants.
func (c crowd) pursue(client *control.Client, o *order, draw *rand.Rand) {
	o.id = control.NewID()
	target := &control.Target{Name: o.service, Request: &control.Request{Verb: o.verb, ID: o.id}}
	wait := rig.Patience
	switch n := draw.IntN(100); {
	case n < 40:
		wait = 0
	case n < 70:
	case n < 90:
		if o.verb == control.Stop || o.verb == control.Kill {
			target.Goal = control.Stopped
		}
	case n < 92:
		target.Goal = goal(o.verb)
	}
	client.Pursue([]*control.Target{target}, wait)
	switch {
	case target.Err == nil, errors.Is(target.Err, control.ErrRefused):
		o.placed = true // another client's order may have come in between
	case wait == 0 && errors.Is(target.Err, control.ErrTime):
		// Others were in the way for a second.
	default:
		c.Errorf("%s %s (%s): %v", o.verb, o.service, o.id, target.Err)
	}
}

func (c crowd) svctl(o *order, draw *rand.Rand) {
	wait := "0"
	if o.verb == control.Stop || o.verb == control.Kill || draw.IntN(10) == 0 {
		wait = "2.5"
	}
	_, code := c.rig.Svctl("-w", wait, string(o.verb), o.service)
	switch {
	case code == 0, code == 1 && wait != "0":
		o.placed = true
	case code == 3 && wait == "0":
	case code == 3:
		o.maybe = true
	default:
		c.Errorf("svctl -w %s %s %s: got exit status %d, want 0, 1 or 3", wait, o.verb, o.service, code)
	}
}

// settled says what a service is to be like some time after an order, and
// whether it is. rest tells that it does not end by itself any more.
func settled(verb control.Verb, v control.View, rest bool) bool {
	switch verb {
	case control.Stop, control.Kill:
		return v.Phase == rundir.Down && v.Wanted == rundir.Down
	case control.Once:
		return v.Phase == rundir.Up && v.Wanted == "once" ||
			!rest && v.Phase == rundir.Down && v.Wanted == rundir.Down
	}
	return v.Wanted == rundir.Up && (v.Phase == rundir.Up || !rest && v.Phase == rundir.Backoff)
}

// lockFor is what the lock file says after an order; empty: there is none.
func lockFor(verb control.Verb) string {
	return map[control.Verb]string{control.Stop: "TERM\n", control.Kill: "KILL\n", control.Once: "once\n"}[verb]
}

// check waits until a service is as its last order wants it.
func (c crowd) check(service string, last control.Verb, rest bool) {
	c.Helper()
	c.rig.Await("what "+string(last)+" wants", func(v control.View) bool { return settled(last, v, rest) }, service)
	lock, err := os.ReadFile(filepath.Join(c.rig.Rundir, service, rundir.Lock))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		c.Error(err)
	}
	if string(lock) != lockFor(last) {
		c.Errorf("%s: lock after %s: got %q, want %q", service, last, lock, lockFor(last))
	}
}

// checkJournal looks for victims that have found another copy of themselves,
// and counts what is in the journal.
func (c crowd) checkJournal() map[string]int {
	c.Helper()
	counts := make(map[string]int)
	for _, line := range c.rig.Journal() {
		counts[line[0]]++
		if line[0] == "DUP" {
			c.Errorf("%s, process %s: got it beside another copy, want one at a time", line[1], line[2])
		}
	}
	return counts
}

// taken reads from the daemon's log which orders the services took, in order,
// and waits until those that must be there are. An order that is lost, or
// taken twice, is an error.
func (c crowd) taken(orders []order) map[string][]rig.Line {
	c.Helper()
	must := make(map[string]order)
	var unnamed, maybe int
	for _, o := range orders {
		switch {
		case o.placed && o.id != "":
			must[o.id] = o
		case o.placed:
			unnamed++
		case o.maybe:
			maybe++
		}
	}
	var byService map[string][]rig.Line
	var missing, strange int
	c.rig.Until("every order to be taken", func() bool {
		byService, missing, strange = make(map[string][]rig.Line), len(must), 0
		lines, other := c.rig.Lines()
		if len(other) > 0 {
			c.Fatalf("daemon's log: got %q among its lines", other)
		}
		seen := make(map[string]bool)
		for _, l := range lines {
			if l.Message == "log lines dropped" {
				c.Fatal("the daemon dropped lines of its log: what it did cannot be seen")
			}
			if l.Message != "order taken by service" {
				continue
			}
			if l.Refused != "" {
				c.Errorf("%s %s: refused: %s", l.Event, l.Service, l.Refused)
			}
			byService[l.Service] = append(byService[l.Service], l)
			switch o, ours := must[l.Request]; {
			case seen[l.Request]:
				c.Errorf("%s %s: request %s taken twice", l.Event, l.Service, l.Request)
			case ours && (o.service != l.Service || string(o.verb) != l.Event):
				c.Errorf("request %s: got %s %s, want %s %s", l.Request, l.Event, l.Service, o.verb, o.service)
			case ours:
				missing--
			case l.Request != "":
				strange++
			}
			seen[l.Request] = l.Request != ""
		}
		return missing == 0 && strange >= unnamed
	})
	if strange > unnamed+maybe {
		c.Errorf("orders taken that nobody gave: got %d, want at most %d", strange, unnamed+maybe)
	}
	return byService
}

// Twenty services that die as they like, four clients that give them orders
// as they like: no service ever runs twice, no order is lost, and in the end
// each service is where its last order wants it.
func TestEveryServiceObeysItsLastOrderAndNoneRunsTwice(t *testing.T) {
	t.Parallel()
	const services, clients = 20, 4
	count := int(setting(t, "LOAD_OPS", 2400))
	seed := setting(t, "LOAD_SEED", uint64(time.Now().UnixNano()))
	t.Logf("LOAD_SEED=%d LOAD_OPS=%d", seed, count)

	r := rig.New(t, rig.Race)
	victim := rig.Program(t, rig.Plain, "victim")
	c := crowd{T: t, rig: r}
	draw := rand.New(rand.NewPCG(seed, 0))
	for i := range services {
		name := fmt.Sprintf("victim%02d", i)
		c.services = append(c.services, name)
		r.Plan(name, "seed="+strconv.FormatUint(draw.Uint64(), 10))
		r.Link(name, victim)
	}
	r.Start("-v", "-l", "json")
	r.Await("first start", func(v control.View) bool { return v.Starts > 0 }, c.services...)

	begin := time.Now()
	given := make([][]order, clients)
	var wait sync.WaitGroup
	for i := range clients {
		draw := rand.New(rand.NewPCG(seed, uint64(i)+1))
		wait.Go(func() { given[i] = c.client(draw, count/clients) })
	}
	wait.Wait()
	took := time.Since(begin)
	orders := slices.Concat(given...)

	c.checkJournal()
	if t.Failed() {
		return
	}

	// Which order was the last is known from the daemon only: several clients
	// write to the same service.
	log := c.taken(orders)
	for _, name := range c.services {
		if lines := log[name]; len(lines) > 0 {
			c.check(name, control.Verb(lines[len(lines)-1].Event), false)
		}
	}

	// Then each client has services of its own, which no longer die, and the
	// last order of each is known from here too.
	if err := os.WriteFile(filepath.Join(r.Work, "calm"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	last := make([]order, services)
	for i := range clients {
		draw := rand.New(rand.NewPCG(seed, uint64(i)+1000))
		wait.Go(func() {
			client := r.Connect()
			defer client.Close()
			for s := i; s < services; s += clients {
				for range 1 + draw.IntN(3) {
					o := order{service: c.services[s], verb: verbs[draw.IntN(len(verbs))], id: control.NewID()}
					target := &control.Target{Name: o.service, Request: &control.Request{Verb: o.verb, ID: o.id}}
					client.Pursue([]*control.Target{target}, rig.Patience)
					if target.Err != nil {
						t.Errorf("%s %s: %v", o.verb, o.service, target.Err)
					}
					last[s] = o
				}
			}
		})
	}
	wait.Wait()
	for _, o := range last {
		c.check(o.service, o.verb, true)
	}
	requests := make(map[string]string) // the last of each service, as the log says
	r.Until("the last orders in the log", func() bool {
		lines, _ := r.Lines()
		for _, l := range lines {
			if l.Message == "order taken by service" && l.Request != "" {
				requests[l.Service] = l.Request
			}
		}
		return !slices.ContainsFunc(last, func(o order) bool { return requests[o.service] != o.id })
	})

	counts := c.checkJournal()
	placed, byVerb := 0, make(map[control.Verb]int)
	for _, o := range orders {
		if o.placed {
			placed++
			byVerb[o.verb]++
		}
	}
	if want := count * 5 / 6; placed < want {
		t.Errorf("orders accepted: got %d of %d, want %d", placed, count, want)
	}
	shutdown := r.End().Round(time.Millisecond)
	lines, other := r.Lines()
	if len(other) > 0 {
		t.Errorf("daemon's log: got %q among its lines", other)
	}
	alone := 0
	for _, l := range lines {
		if l.Message == "decision" && l.Event == "exited" && l.Phase == rundir.Up {
			alone++
		}
	}
	if want := count / 100; alone < want {
		t.Errorf("services that ended by themselves: got %d, want at least %d", alone, want)
	}
	t.Logf("%d orders accepted in %.1f s: %s; victims: %s, %d ended by themselves; shutdown %s",
		placed, took.Seconds(), words(byVerb), words(counts), alone, shutdown)
}

// words are the counts of a map, sorted by their names.
func words[K ~string](counts map[K]int) string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(counts)) {
		out = append(out, fmt.Sprintf("%d %s", counts[key], key))
	}
	return strings.Join(out, ", ")
}
