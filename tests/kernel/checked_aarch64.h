/* The aarch64 half of checked_call.h: x0 to x30, the condition flags, v0 to v31, FPCR and FPSR. A
 * call may change x0 only; the kernel itself makes x8 restart_syscall where a sleep was interrupted. */
enum { FLAGS = 31, GENERAL };

struct machine_state {
	uint64_t before[GENERAL], after[GENERAL];
	uint8_t vector_before[32][16], vector_after[32][16];
};

extern void with_known_state_call(struct machine_state *);
extern void with_known_state_spin(struct machine_state *);

/* The state's address waits at the top of the stack, and x0 is put beside it afterwards. */
#define KNOWN_STATE(name, body)                                                                    \
	__asm__(".text\n.globl " name "\n" name ":\n"                                              \
		"stp x29, x30, [sp, #-16]!\nstp x27, x28, [sp, #-16]!\nstp x25, x26, [sp, #-16]!\n" \
		"stp x23, x24, [sp, #-16]!\nstp x21, x22, [sp, #-16]!\nstp x19, x20, [sp, #-16]!\n" \
		"stp d8, d9, [sp, #-16]!\nstp d10, d11, [sp, #-16]!\n"                             \
		"stp d12, d13, [sp, #-16]!\nstp d14, d15, [sp, #-16]!\n"                           \
		"sub sp, sp, #16\nstr x0, [sp]\nadd x1, x0, #512\n"                                \
		"ldp q0, q1, [x1, #0]\nldp q2, q3, [x1, #32]\n"                                    \
		"ldp q4, q5, [x1, #64]\nldp q6, q7, [x1, #96]\n"                                   \
		"ldp q8, q9, [x1, #128]\nldp q10, q11, [x1, #160]\n"                               \
		"ldp q12, q13, [x1, #192]\nldp q14, q15, [x1, #224]\n"                             \
		"ldp q16, q17, [x1, #256]\nldp q18, q19, [x1, #288]\n"                             \
		"ldp q20, q21, [x1, #320]\nldp q22, q23, [x1, #352]\n"                             \
		"ldp q24, q25, [x1, #384]\nldp q26, q27, [x1, #416]\n"                             \
		"ldp q28, q29, [x1, #448]\nldp q30, q31, [x1, #480]\n"                             \
		"ldr x1, [x0, #248]\nmsr nzcv, x1\nldr x30, [x0, #240]\n"                          \
		"ldp x2, x3, [x0, #16]\nldp x4, x5, [x0, #32]\n"                                   \
		"ldp x6, x7, [x0, #48]\nldp x8, x9, [x0, #64]\n"                                   \
		"ldp x10, x11, [x0, #80]\nldp x12, x13, [x0, #96]\n"                               \
		"ldp x14, x15, [x0, #112]\nldp x16, x17, [x0, #128]\n"                             \
		"ldp x18, x19, [x0, #144]\nldp x20, x21, [x0, #160]\n"                             \
		"ldp x22, x23, [x0, #176]\nldp x24, x25, [x0, #192]\n"                             \
		"ldp x26, x27, [x0, #208]\nldp x28, x29, [x0, #224]\n"                             \
		"ldp x0, x1, [x0]\n" body                                                          \
		"str x0, [sp, #8]\nldr x0, [sp]\nstr x1, [x0, #264]\nmrs x1, nzcv\n"               \
		"str x1, [x0, #504]\nldr x1, [sp, #8]\nstr x1, [x0, #256]\nstr x30, [x0, #496]\n"  \
		"stp x2, x3, [x0, #272]\nstp x4, x5, [x0, #288]\n"                                 \
		"stp x6, x7, [x0, #304]\nstp x8, x9, [x0, #320]\n"                                 \
		"stp x10, x11, [x0, #336]\nstp x12, x13, [x0, #352]\n"                             \
		"stp x14, x15, [x0, #368]\nstp x16, x17, [x0, #384]\n"                             \
		"stp x18, x19, [x0, #400]\nstp x20, x21, [x0, #416]\n"                             \
		"stp x22, x23, [x0, #432]\nstp x24, x25, [x0, #448]\n"                             \
		"stp x26, x27, [x0, #464]\nstp x28, x29, [x0, #480]\n"                             \
		"add x1, x0, #1024\n"                                                              \
		"stp q0, q1, [x1, #0]\nstp q2, q3, [x1, #32]\n"                                    \
		"stp q4, q5, [x1, #64]\nstp q6, q7, [x1, #96]\n"                                   \
		"stp q8, q9, [x1, #128]\nstp q10, q11, [x1, #160]\n"                               \
		"stp q12, q13, [x1, #192]\nstp q14, q15, [x1, #224]\n"                             \
		"stp q16, q17, [x1, #256]\nstp q18, q19, [x1, #288]\n"                             \
		"stp q20, q21, [x1, #320]\nstp q22, q23, [x1, #352]\n"                             \
		"stp q24, q25, [x1, #384]\nstp q26, q27, [x1, #416]\n"                             \
		"stp q28, q29, [x1, #448]\nstp q30, q31, [x1, #480]\n"                             \
		"add sp, sp, #16\n"                                                                \
		"ldp d14, d15, [sp], #16\nldp d12, d13, [sp], #16\n"                               \
		"ldp d10, d11, [sp], #16\nldp d8, d9, [sp], #16\n"                                 \
		"ldp x19, x20, [sp], #16\nldp x21, x22, [sp], #16\nldp x23, x24, [sp], #16\n"      \
		"ldp x25, x26, [sp], #16\nldp x27, x28, [sp], #16\nldp x29, x30, [sp], #16\nret\n")

KNOWN_STATE("with_known_state_call", "svc #0\n");
KNOWN_STATE("with_known_state_spin", "1: ldrb w16, [x17]\ncbz w16, 1b\n");
_Static_assert(sizeof(struct machine_state) == 1536, "offsets above");

static void compare(const struct machine_state *state, int is_call)
{
	for (int i = 0; i < GENERAL; i++)
		if (i != (is_call ? 0 : 16) && state->before[i] != state->after[i] &&
		    !(is_call && i == 8 && state->after[i] == 128))
			snprintf(broken, sizeof broken, i == FLAGS ? "flags" : "x%d", i);
	for (int i = 0; i < 32; i++)
		if (memcmp(state->vector_before[i], state->vector_after[i], 16))
			snprintf(broken, sizeof broken, "v%d", i);
}

static void known(struct machine_state *state)
{
	for (int i = 0; i < FLAGS; i++)
		state->before[i] = 0x0101010101010101u * (0x11 + i);
	state->before[FLAGS] = 0xa0000000;
	for (int i = 0; i < 32; i++)
		for (int j = 0; j < 16; j++)
			state->vector_before[i][j] = i * 8 + j + 1;
}

static void run_with_known_state(struct machine_state *state, int is_call)
{
	/* Rounding towards zero; an inexact result and a saturated one have been seen. */
	uint64_t control = 3 << 22, status = 1 << 27 | 1 << 4, control_after, status_after;
	__asm__ volatile("msr fpcr, %0\nmsr fpsr, %1" : : "r"(control), "r"(status));
	if (is_call)
		with_known_state_call(state);
	else
		with_known_state_spin(state);
	__asm__ volatile("mrs %0, fpcr\nmrs %1, fpsr" : "=r"(control_after), "=r"(status_after));
	if (control_after != control)
		strcpy(broken, "fpcr");
	if (status_after != status)
		strcpy(broken, "fpsr");
	__asm__ volatile("msr fpcr, xzr\nmsr fpsr, xzr");
	compare(state, is_call);
}

enum { NUMBER = 8, ANSWER = 0, FLAG = 17 };
static const int argument_registers[] = { 0, 1, 2, 3, 4, 5 };
