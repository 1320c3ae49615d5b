#include "textflag.h"
#include "go_asm.h"

// func vfork(number, a, b uintptr, l *launch) (pid int)
//
// See fork_linux_amd64.s.
TEXT ·vfork(SB), NOSPLIT, $0-40
	MOVD number+0(FP), R8
	MOVD a+8(FP), R0
	MOVD b+16(FP), R1
	MOVD l+24(FP), R9
	MOVD launch_calls(R9), R9
	MOVD ZR, R2
	MOVD ZR, R3
	MOVD ZR, R4
	MOVD ZR, R5
	SVC
	CBZ  R0, child
	MOVD R0, pid+32(FP)
	RET

child:
	MOVD call_number(R9), R8
	MOVD call_a(R9), R0
	MOVD call_b(R9), R1
	MOVD call_c(R9), R2
	MOVD call_d(R9), R3
	SVC
	CMN  $4095, R0
	BCS  failed
	ADD  $call__size, R9
	B    child

failed:
	NEG  R0, R0
	MOVD R0, call_errno(R9)
	MOVD $253, R0 // execFailed
	MOVD $94, R8  // exit_group
	SVC
	BRK
