package main

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"go.uber.org/zap/zapcore"
)

// The log is made of zapcore, the part of zap that writes it. The package zap
// around that is not linked in: it has an HTTP handler in it, and with that
// net/http and TLS, which would double the program and its memory at rest. What
// is missing by that are the constructors of fields:

func text(key, value string) zapcore.Field {
	return zapcore.Field{Key: key, Type: zapcore.StringType, String: value}
}

func number[T int | int32](key string, value T) zapcore.Field {
	return zapcore.Field{Key: key, Type: zapcore.Int64Type, Integer: int64(value)}
}

func yes(key string, value bool) zapcore.Field {
	f := zapcore.Field{Key: key, Type: zapcore.BoolType}
	if value {
		f.Integer = 1
	}
	return f
}

func span(key string, value time.Duration) zapcore.Field {
	return zapcore.Field{Key: key, Type: zapcore.DurationType, Integer: int64(value)}
}

func word(key string, value fmt.Stringer) zapcore.Field {
	return zapcore.Field{Key: key, Type: zapcore.StringerType, Interface: value}
}

func failure(err error) zapcore.Field {
	if err == nil {
		return zapcore.Field{Type: zapcore.SkipType}
	}
	return zapcore.Field{Key: "error", Type: zapcore.ErrorType, Interface: err}
}

func list(key string, values []string) zapcore.Field {
	return zapcore.Field{Key: key, Type: zapcore.ArrayMarshalerType, Interface: texts(values)}
}

type texts []string

// MarshalLogArray is called by the encoder.
func (t texts) MarshalLogArray(out zapcore.ArrayEncoder) error {
	for _, s := range t {
		out.AppendString(s)
	}
	return nil
}

// level is what lines must have at least to be written. It can be changed while
// the log is in use.
type level struct{ least atomic.Int32 }

// Enabled makes it a zapcore.LevelEnabler.
func (l *level) Enabled(at zapcore.Level) bool { return at >= zapcore.Level(l.least.Load()) }

func (l *level) set(least zapcore.Level) { l.least.Store(int32(least)) }

// newCore makes what writes the lines, each whole, of which none is left out.
func newCore(json bool, out zapcore.WriteSyncer, least zapcore.LevelEnabler) zapcore.Core {
	encoding := zapcore.EncoderConfig{
		TimeKey: "ts", LevelKey: "level", MessageKey: "msg",
		LineEnding:     zapcore.DefaultLineEnding,
		EncodeTime:     zapcore.ISO8601TimeEncoder,
		EncodeDuration: zapcore.StringDurationEncoder,
		EncodeLevel:    zapcore.LowercaseLevelEncoder,
	}
	encoder := zapcore.NewConsoleEncoder(encoding)
	if json {
		encoder = zapcore.NewJSONEncoder(encoding)
	}
	return zapcore.NewCore(encoder, out, least)
}

// lines gathers some lines and writes them together, to standard error. Those
// that go into a pipe together are not torn apart by those of others
// (PIPE_BUF, pipe(7)).
type lines struct{ buf []byte }

const atOnce = 4096

// Write is called with one line.
func (l *lines) Write(line []byte) (int, error) {
	if len(l.buf)+len(line) > atOnce {
		l.Sync()
	}
	l.buf = append(l.buf, line...)
	return len(line), nil
}

// Sync writes what there is.
func (l *lines) Sync() error {
	if len(l.buf) == 0 {
		return nil
	}
	_, err := os.Stderr.Write(l.buf)
	l.buf = l.buf[:0]
	return err
}
