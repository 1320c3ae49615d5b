#include "textflag.h"
#include "go_asm.h"

// func vfork(number, a, b uintptr, l *launch) (pid int)
//
// The child has our memory and our stack, and does not touch the stack: it
// makes its calls one after the other until one fails, or has executed.
TEXT ·vfork(SB), NOSPLIT, $0-40
	MOVQ number+0(FP), AX
	MOVQ a+8(FP), DI
	MOVQ b+16(FP), SI
	MOVQ l+24(FP), R13
	MOVQ launch_calls(R13), R13
	XORL DX, DX
	XORL R10, R10
	XORL R8, R8
	XORL R9, R9
	SYSCALL
	TESTQ AX, AX
	JEQ   child
	MOVQ  AX, pid+32(FP)
	RET

child:
	MOVQ call_number(R13), AX
	MOVQ call_a(R13), DI
	MOVQ call_b(R13), SI
	MOVQ call_c(R13), DX
	MOVQ call_d(R13), R10
	SYSCALL
	CMPQ AX, $0xfffffffffffff001
	JCC  failed
	ADDQ $call__size, R13
	JMP  child

failed:
	NEGQ AX
	MOVQ AX, call_errno(R13)
	MOVL $253, DI // execFailed
	MOVL $231, AX // exit_group
	SYSCALL
	INT  $3
