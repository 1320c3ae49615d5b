package main

import (
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"sysmgr/actor"
	"sysmgr/control"
	"sysmgr/internal/rundir"
	"sysmgr/reaper"
	"sysmgr/scanner"
)

// journal is the log. It is the only place that knows zap: the packages
// report facts, and here each fact becomes a line, on a goroutine of its own.
// Whoever reports never waits: if standard error is stuck, lines are dropped
// and counted.
type journal struct {
	level zap.AtomicLevel
	zap   *zap.Logger

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
	// flushed is no fact: whoever waits for it knows that those before it
	// have been written.
	flushed struct{ written chan struct{} }
)

func newJournal(debug, json bool) *journal {
	level := zap.NewAtomicLevel()
	if debug {
		level.SetLevel(zap.DebugLevel)
	}
	encoding := zap.NewProductionEncoderConfig()
	encoding.EncodeTime = zapcore.ISO8601TimeEncoder
	encoding.EncodeDuration = zapcore.StringDurationEncoder
	encoding.EncodeLevel = zapcore.LowercaseLevelEncoder
	encoder := zapcore.NewConsoleEncoder(encoding)
	if json {
		encoder = zapcore.NewJSONEncoder(encoding)
	}
	j := &journal{
		level:   level,
		zap:     zap.New(zapcore.NewCore(encoder, os.Stderr, level)),
		busy:    make(chan struct{}, 1),
		wake:    make(chan struct{}, 1),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
	}
	go j.write()
	return j
}

// debug tells whether debug lines are wanted.
func (j *journal) debug() bool { return j.level.Enabled(zap.DebugLevel) }

// toggle turns debug lines on or off and tells which.
func (j *journal) toggle() bool {
	on := !j.debug()
	if on {
		j.level.SetLevel(zap.DebugLevel)
	} else {
		j.level.SetLevel(zap.InfoLevel)
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
			j.log(time.Now(), zap.WarnLevel, "log lines dropped", zap.Int("lines", dropped))
		}
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

func (j *journal) log(at time.Time, level zapcore.Level, message string, fields ...zap.Field) {
	if entry := j.zap.Check(level, message); entry != nil {
		entry.Time = at
		entry.Write(fields...)
	}
}

// print makes the line of a fact: a message that is always the same, and what
// varies in fields.
func (j *journal) print(l line) {
	log := func(level zapcore.Level, message string, fields ...zap.Field) { j.log(l.at, level, message, fields...) }
	const debug, info, warn = zap.DebugLevel, zap.InfoLevel, zap.WarnLevel
	switch f := l.fact.(type) {
	case flushed:
		close(f.written)
	case begun:
		log(info, "sysmgr started", zap.String("sysdir", f.sysdir), zap.String("rundir", f.rundir), zap.Int("pid", os.Getpid()), zap.Int("services_taken_over", f.services))
	case inherits:
		log(warn, "lock held by a start that the last sysmgr left under way, waiting for it")
	case adrift:
		log(warn, "run directory lost, services are kept from memory", zap.Error(f.err))
	case rebuilt:
		log(info, "run directory made anew")
	case unreplaced:
		log(warn, "program not replaced, nothing has changed", zap.Error(f.err))
	case unrecorded:
		log(warn, "records not kept, a later sysmgr cannot take over", zap.Error(f.err))
	case ended:
		log(info, "sysmgr ended", zap.Int("exit_code", f.code))
	case heard:
		log(info, "signal received", zap.String("signal", f.signal), zap.String("effect", f.effect))
	case found:
		log(debug, "snapshot sent to supervisor", zap.Int("entries", f.entries))

	case actor.Changed:
		j.changed(l.at, f)
	case actor.Decided:
		effects := make([]string, len(f.Effects))
		for i, e := range f.Effects {
			effects[i] = e.String()
		}
		log(debug, "decision", zap.String("service", f.Service), zap.Stringer("event", f.Event.Kind),
			zap.Stringer("phase", f.Old.Phase), zap.Stringer("want", f.Old.Want),
			zap.Stringer("new_phase", f.New.Phase), zap.Stringer("new_want", f.New.Want),
			zap.Strings("effects", effects), zap.Int("pid", f.New.Pid), zap.Int("failures", f.New.Failures),
			zap.String("cause", f.New.Why()))
	case actor.Taken:
		log(debug, "order taken by service", zap.String("service", f.Service), zap.Stringer("event", f.Order.Event.Kind),
			zap.String("request", f.Order.ID), zap.String("refused", f.Order.Refused), zap.Bool("folder_lost", f.Order.Lost))
	case actor.Unpublished:
		log(warn, "state not published", zap.String("service", f.Service), zap.Error(f.Err))
	case actor.Published:
		log(info, "states published again")
	case actor.Misread:
		log(warn, "file ignored: no sense in it", zap.String("service", f.Service), zap.String("file", f.File))
	case actor.Hanging:
		log(warn, "start of service hangs", zap.String("service", f.Service))
	case actor.HeldUp:
		log(warn, "shutdown waits for services", zap.Strings("services", f.Services))

	case scanner.Scanned:
		log(debug, "service directory scanned", zap.Int("entries", f.Entries), zap.Duration("took", f.Took), zap.Bool("changed", f.Changed))
	case scanner.Refused:
		log(warn, "entry refused", zap.String("service", f.Name), zap.String("cause", f.Err.Error()))
	case scanner.Unreadable:
		log(warn, "service directory cannot be read, services run on", zap.Error(f.Err))
	case scanner.Found:
		log(info, "service directory is back")
	case scanner.Replaced:
		log(warn, "service directory is another one, services not in it run on", zap.Strings("services", f.Kept))
	case scanner.Hung:
		log(warn, "file system does not answer about entry", zap.String("service", f.Name))
	case scanner.Watchless:
		log(warn, "service directory is polled", zap.Error(f.Err))
	case scanner.Overrun:
		log(warn, "events lost, service directory read again")

	case control.Asked:
		m := f.Message
		level := debug
		if m.Refused != "" {
			level = warn
		}
		log(level, "request received", zap.String("service", m.Service), zap.String("verb", string(m.Request.Verb)),
			zap.String("request", m.Request.ID), zap.String("refused", m.Refused), zap.Bool("folder_lost", m.Lost))
	case control.Unwritten:
		log(warn, "lock not written, hold kept in memory", zap.String("service", f.Service), zap.Error(f.Err))
	case control.Watchless:
		log(warn, "run directory is polled", zap.Error(f.Err))
	case control.Overrun:
		log(warn, "events lost, run directory read again")

	case reaper.Reaped:
		log(debug, "orphan reaped", zap.Int("pid", f.Pid), zap.String("exit", actor.ExitWords(f.Status)))
	case reaper.Escaped:
		log(warn, "process left its service's process group, out of reach", zap.Int("pid", f.Pid), zap.String("service", f.Service))
	default:
		log(warn, "fact without a message", zap.Any("fact", f))
	}
}

// changed makes the lines of a service's transition.
func (j *journal) changed(at time.Time, f actor.Changed) {
	service := zap.String("service", f.Service)
	old, new := f.Old, f.New
	if f.Event.Kind == actor.Exited {
		fields := []zap.Field{service, zap.Int("pid", old.Pid)}
		if status := f.Event.Exit; status == reaper.Unknown {
			fields = append(fields, zap.String("exit", "unknown"))
		} else if status.Signaled() {
			fields = append(fields, zap.String("signal", rundir.SignalName(status.Signal())))
		} else {
			fields = append(fields, zap.Int("exit_code", status.ExitStatus()))
		}
		if old.Phase == actor.Up {
			fields = append(fields, zap.Duration("uptime", f.Event.At.Sub(old.Since).Round(time.Millisecond)))
		}
		j.log(at, zap.InfoLevel, "service exited", fields...)
	}
	switch new.Phase {
	case actor.Up:
		if old.Starts != new.Starts {
			j.log(at, zap.InfoLevel, "service up", service, zap.Int("pid", new.Pid), zap.Int("starts", new.Starts))
		}
	case actor.Stopping:
		if !new.Killed.IsZero() && old.Killed.IsZero() {
			j.log(at, zap.WarnLevel, "service killed", service, zap.Int("group", new.Group), zap.String("cause", new.Why()))
		} else if old.Phase == actor.Stopping && new.Stuck() {
			j.log(at, zap.WarnLevel, "service still alive after kill", service, zap.Int("group", new.Group))
		} else if old.Phase != actor.Stopping {
			j.log(at, zap.InfoLevel, "service stopping", service, zap.Int("group", new.Group), zap.String("cause", new.Why()))
		}
	case actor.Backoff:
		level := zap.WarnLevel
		if new.Retry < time.Second {
			level = zap.DebugLevel // its file is being written
		}
		j.log(at, level, "service in backoff", service, zap.Duration("delay", new.Retry), zap.String("cause", new.Why()))
	case actor.Blocked:
		j.log(at, zap.WarnLevel, "service blocked", service, zap.String("cause", new.Why()))
	case actor.Down:
		j.log(at, zap.InfoLevel, "service down", service, zap.String("cause", new.Why()))
	}
}
