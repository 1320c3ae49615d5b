//go:build linux && amd64

package main

import (
	"encoding/binary"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The entries of the auxiliary vector that matter here (getauxval(3)).
const (
	auxIgnore = 1  // AT_IGNORE
	auxVDSO   = 33 // AT_SYSINFO_EHDR
)

// hideClock takes from a program that is about to begin what it could read the
// clock with itself (vdso(7)): then it has to ask the kernel, and we hear of
// it. It goes through the stack as execve(2) leaves it: the number of arguments,
// they and a zero, the environment and a zero, and then the vector.
func hideClock(pid int) error {
	var regs syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(pid, &regs); err != nil {
		return err
	}
	at := regs.Rsp
	arguments, ok := word(pid, at)
	for at += 8 * (arguments + 2); ok; at += 8 {
		var entry uint64
		if entry, ok = word(pid, at); entry == 0 {
			break
		}
	}
	for at += 8; ok; at += 16 {
		var kind uint64
		switch kind, ok = word(pid, at); {
		case kind == auxVDSO:
			var ignore [8]byte
			binary.NativeEndian.PutUint64(ignore[:], auxIgnore)
			_, err := syscall.PtracePokeData(pid, uintptr(at), ignore[:])
			return err
		case kind == 0:
			return nil // it has none
		}
	}
	return fmt.Errorf("the stack of process %d cannot be read", pid)
}

// setClock changes what clock_gettime(2) has answered.
func (t *tracer) setClock(tid int, address uint64) {
	seconds, ok := word(tid, address)
	if !ok {
		return
	}
	if t.skew == 0 {
		t.skew = time.Duration(t.clock-int64(seconds)) * time.Second
		t.say("clock %s", time.Unix(t.clock, 0).UTC().Format(time.RFC3339))
	}
	var fake [8]byte
	binary.NativeEndian.PutUint64(fake[:], uint64(int64(seconds)+int64(t.skew/time.Second)))
	if _, err := unix.PtracePokeData(tid, uintptr(address), fake[:]); err != nil {
		t.say("clock: %v", err)
	}
}
