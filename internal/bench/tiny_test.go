//go:build linux

package bench

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"runtime"

	"sysmgr/internal/load/rig"
)

// tiny is a program that says when its first instruction ran, as
// internal/load/victim does, and sleeps. It is the smallest there can be: what
// a larger one takes to begin would hide what its supervisor takes.
//
//	sub  $32, %rsp
//	mov  $228, %eax; mov $1, %edi; mov %rsp, %rsi; syscall   clock_gettime(CLOCK_MONOTONIC, %rsp)
//	mov  $39, %eax; syscall; mov %rax, 16(%rsp)              getpid()
//	mov  $1, %eax; mov $1, %edi; mov %rsp, %rsi; mov $24, %edx; syscall   write(1, %rsp, 24)
//	1: mov $34, %eax; syscall; jmp 1b                        pause()
const tiny = "4883ec20b8e4000000bf010000004889e60f05b8270000000f0548894424" +
	"10b801000000bf010000004889e6ba180000000f05b8220000000f05ebf7"

// program makes the program that is run as a service, and returns its path.
// Where there is no tiny one it is the victim, which is static too.
func (y *yard) program() string {
	if runtime.GOARCH != "amd64" {
		return rig.Program(y.TB, rig.Plain, "victim")
	}
	code, err := hex.DecodeString(tiny)
	if err != nil {
		y.Fatal(err)
	}
	const base, header = 0x400000, 64 + 56
	var elf bytes.Buffer
	put := func(fields ...any) {
		for _, field := range fields {
			binary.Write(&elf, binary.LittleEndian, field)
		}
	}
	size := uint64(header + len(code))
	// elf(5): the header, one segment that is loaded, and the code.
	put([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
		uint16(2), uint16(62), uint32(1), uint64(base+header), uint64(64), uint64(0),
		uint32(0), uint16(64), uint16(56), uint16(1), uint16(64), uint16(0), uint16(0))
	put(uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(4096))
	elf.Write(code)
	path := y.Work + "/tiny"
	if err := os.WriteFile(path, elf.Bytes(), 0o755); err != nil {
		y.Fatal(err)
	}
	return path
}
