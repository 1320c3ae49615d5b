package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"go.uber.org/zap/zapcore"

	"sysmgr/actor"
	"sysmgr/control"
	"sysmgr/internal/rundir"
	"sysmgr/reaper"
	"sysmgr/scanner"
)

// journal is the log. It and fields.go are the only place that knows zap: the
// packages report facts, and here each fact becomes a line, on a goroutine of
// its own. Whoever reports never waits: if standard error is stuck, lines are
// dropped and counted.
type journal struct {
	level level
	core  zapcore.Core
	out   lines

	mu      sync.Mutex // guards queue and dropped, between reporters and the writer
	queue   []line
	dropped int
	lines   int           // all so far
	busy    chan struct{} // receives now and then while much is reported
	wake    chan struct{}
	closing chan struct{}
	once    sync.Once // for closing
	done    chan struct{}
}

// line is a fact and when it was reported.
type line struct {
	at   time.Time
	fact any
}

// maxQueue bounds the lines that wait for standard error.
const maxQueue = 1 << 14

// much is how many lines mean that something is going on.
const much = 256

// Facts of the daemon's own life.
type (
	begun struct {
		sysdir, rundir string
		services       int // of the daemon before this one
	}
	unrecorded struct{ err error }
	unreplaced struct{ err error }
	adrift     struct{ err error }
	inherits   struct{}
	rebuilt    struct{}
	ended      struct{ code int }
	heard      struct{ signal, effect string }
	found      struct{ entries int }
	come       struct{ name string }
	// flushed is no fact: whoever waits for it knows that those before it
	// have been written.
	flushed struct{ written chan struct{} }
)

func newJournal(debug, json bool) *journal {
	j := &journal{
		busy:    make(chan struct{}, 1),
		wake:    make(chan struct{}, 1),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
	}
	if debug {
		j.level.set(zapcore.DebugLevel)
	}
	j.core = newCore(json, &j.out, &j.level)
	go j.write()
	return j
}

// debug tells whether debug lines are wanted.
func (j *journal) debug() bool { return j.level.Enabled(zapcore.DebugLevel) }

// toggle turns debug lines on or off and tells which.
func (j *journal) toggle() bool {
	on := !j.debug()
	if on {
		j.level.set(zapcore.DebugLevel)
	} else {
		j.level.set(zapcore.InfoLevel)
	}
	return on
}

// report takes a fact. It does not block.
func (j *journal) report(fact any) {
	j.mu.Lock()
	if len(j.queue) < maxQueue {
		j.queue = append(j.queue, line{time.Now(), fact})
	} else {
		j.dropped++
	}
	j.lines++
	much := j.lines%much == 0
	j.mu.Unlock()
	if much {
		select {
		case j.busy <- struct{}{}:
		default:
		}
	}
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// flush waits until what was reported is written, but no longer than a second.
func (j *journal) flush() {
	written := make(chan struct{})
	j.report(flushed{written})
	select {
	case <-written:
	case <-time.After(time.Second):
	}
}

// close writes what is left, but waits for it no longer than a second. To close
// it again does nothing.
func (j *journal) close() {
	j.once.Do(func() { close(j.closing) })
	select {
	case <-j.done:
	case <-time.After(time.Second):
	}
}

func (j *journal) write() {
	defer close(j.done)
	for last := false; ; {
		j.mu.Lock()
		queue, dropped := j.queue, j.dropped
		j.queue, j.dropped = nil, 0
		j.mu.Unlock()
		for _, l := range queue {
			j.print(l)
		}
		if dropped > 0 {
			j.log(time.Now(), zapcore.WarnLevel, "log lines dropped", number("lines", dropped))
		}
		j.out.Sync()
		if len(queue) > 0 {
			continue
		}
		if last {
			return
		}
		select {
		case <-j.wake:
		case <-j.closing:
			last = true
		}
	}
}

func (j *journal) log(at time.Time, level zapcore.Level, message string, fields ...zapcore.Field) {
	if j.level.Enabled(level) {
		// An error would be that of standard error: there is nobody to tell.
		j.core.Write(zapcore.Entry{Level: level, Time: at, Message: message}, fields)
	}
}

// print makes the line of a fact: a message that is always the same, and what
// varies in fields.
func (j *journal) print(l line) {
	log := func(level zapcore.Level, message string, fields ...zapcore.Field) {
		j.log(l.at, level, message, fields...)
	}
	const debug, info, warn = zapcore.DebugLevel, zapcore.InfoLevel, zapcore.WarnLevel
	switch f := l.fact.(type) {
	case flushed:
		j.out.Sync()
		close(f.written)
	case begun:
		log(info, "sysmgr started", text("sysdir", f.sysdir), text("rundir", f.rundir), number("pid", os.Getpid()), number("services_taken_over", f.services))
	case inherits:
		log(warn, "lock held by a start that the last sysmgr left under way, waiting for it")
	case adrift:
		log(warn, "run directory lost, services are kept from memory", failure(f.err))
	case rebuilt:
		log(info, "run directory made anew")
	case unreplaced:
		log(warn, "program not replaced, nothing has changed", failure(f.err))
	case unrecorded:
		log(warn, "records not kept, a later sysmgr cannot take over", failure(f.err))
	case ended:
		log(info, "sysmgr ended", number("exit_code", f.code))
	case heard:
		log(info, "signal received", text("signal", f.signal), text("effect", f.effect))
	case found:
		log(debug, "snapshot sent to supervisor", number("entries", f.entries))

	case come:
		log(debug, "new entry told to supervisor early", text("service", f.name))

	case actor.Changed:
		j.changed(l.at, f)
	case actor.Decided:
		effects := make([]string, len(f.Effects))
		for i, e := range f.Effects {
			effects[i] = e.String()
		}
		log(debug, "decision", text("service", f.Service), word("event", f.Event.Kind),
			word("phase", f.Old.Phase), word("want", f.Old.Want),
			word("new_phase", f.New.Phase), word("new_want", f.New.Want),
			list("effects", effects), number("pid", f.New.Pid), number("failures", int(f.New.Failures)),
			text("cause", f.New.Why()))
	case actor.Taken:
		if f.Order.Said {
			log(debug, "service looks at what it says of itself", text("service", f.Service))
			break
		}
		log(debug, "order taken by service", text("service", f.Service), word("event", f.Order.Event.Kind),
			text("request", f.Order.ID), text("refused", f.Order.Refused), yes("folder_lost", f.Order.Lost))
	case actor.Unpublished:
		log(warn, "state not published", text("service", f.Service), failure(f.Err))
	case actor.Published:
		log(info, "states published again")
	case actor.Misread:
		log(warn, "file ignored: no sense in it", text("service", f.Service), text("file", f.File))
	case actor.Hanging:
		log(warn, "start of service hangs", text("service", f.Service))
	case actor.HeldUp:
		log(warn, "shutdown waits for services", list("services", f.Services))

	case scanner.Scanned:
		log(debug, "service directory scanned", number("entries", f.Entries), span("took", f.Took), yes("changed", f.Changed))
	case scanner.Refused:
		log(warn, "entry refused", text("service", f.Name), text("cause", f.Err.Error()))
	case scanner.Unreadable:
		log(warn, "service directory cannot be read, services run on", failure(f.Err))
	case scanner.Found:
		log(info, "service directory is back")
	case scanner.Replaced:
		log(warn, "service directory is another one, services not in it run on", list("services", f.Kept))
	case scanner.Hung:
		log(warn, "file system does not answer about entry", text("service", f.Name))
	case scanner.Watchless:
		log(warn, "service directory is polled", failure(f.Err))
	case scanner.Overrun:
		log(warn, "events lost, service directory read again")

	case control.Asked:
		m := f.Message
		if m.Said {
			log(debug, "service may have said something of itself", text("service", m.Service))
			break
		}
		level := debug
		if m.Refused != "" {
			level = warn
		}
		log(level, "request received", text("service", m.Service), text("verb", string(m.Request.Verb)),
			text("request", m.Request.ID), text("refused", m.Refused), yes("folder_lost", m.Lost))
	case control.Unwritten:
		log(warn, "lock not written, hold kept in memory", text("service", f.Service), failure(f.Err))
	case control.Watchless:
		log(warn, "run directory is polled", failure(f.Err))
	case control.Overrun:
		log(warn, "events lost, run directory read again")

	case reaper.Reaped:
		log(debug, "orphan reaped", number("pid", f.Pid), text("exit", actor.ExitWords(f.Status)))
	case reaper.Escaped:
		log(warn, "process left its service's process group, out of reach", number("pid", f.Pid), text("service", f.Service))
	default:
		log(warn, "fact without a message", text("fact", fmt.Sprintf("%T", f)))
	}
}

// changed makes the lines of a service's transition.
func (j *journal) changed(at time.Time, f actor.Changed) {
	service := text("service", f.Service)
	old, new := f.Old, f.New
	if f.Event.Kind == actor.Exited {
		fields := []zapcore.Field{service, number("pid", old.Pid)}
		if status := f.Event.Exit; status == reaper.Unknown {
			fields = append(fields, text("exit", "unknown"))
		} else if status.Signaled() {
			fields = append(fields, text("signal", rundir.SignalName(status.Signal())))
		} else {
			fields = append(fields, number("exit_code", status.ExitStatus()))
		}
		if old.Phase == actor.Up {
			fields = append(fields, span("uptime", f.Event.At.Sub(old.Since).Round(time.Millisecond)))
		}
		j.log(at, zapcore.InfoLevel, "service exited", fields...)
	}
	switch new.Phase {
	case actor.Up:
		if old.Starts != new.Starts {
			j.log(at, zapcore.InfoLevel, "service up", service, number("pid", new.Pid), number("starts", new.Starts))
		}
	case actor.Stopping:
		if !new.Killed.IsZero() && old.Killed.IsZero() {
			j.log(at, zapcore.WarnLevel, "service killed", service, number("group", new.Group), text("cause", new.Why()))
		} else if old.Phase == actor.Stopping && new.Stuck() {
			j.log(at, zapcore.WarnLevel, "service still alive after kill", service, number("group", new.Group))
		} else if old.Phase != actor.Stopping {
			j.log(at, zapcore.InfoLevel, "service stopping", service, number("group", new.Group), text("cause", new.Why()))
		}
	case actor.Backoff:
		level := zapcore.WarnLevel
		if new.Retry() < time.Second {
			level = zapcore.DebugLevel // its file is being written
		}
		j.log(at, level, "service in backoff", service, span("delay", new.Retry()), text("cause", new.Why()))
	case actor.Blocked:
		j.log(at, zapcore.WarnLevel, "service blocked", service, text("cause", new.Why()))
	case actor.Down:
		j.log(at, zapcore.InfoLevel, "service down", service, text("cause", new.Why()))
	}
}
