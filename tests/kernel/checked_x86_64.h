/* The x86-64 half of checked_call.h: general registers, vector registers, x87 and SSE control, the
 * red zone. A call may change rax, rcx and r11 only. */
#include <xmmintrin.h>

enum { RAX, RBX, RCX, RDX, RSI, RDI, RBP, R8, R9, R10, R11, R12, R13, R14, R15, GENERAL };
#define RED_ZONE 128

struct machine_state {
	uint64_t before[GENERAL], after[GENERAL];
	uint8_t vector_before[16][32], vector_after[16][32];
	uint8_t red_zone_before[RED_ZONE], red_zone_after[RED_ZONE];
};

extern void with_known_state_call(struct machine_state *);
extern void with_known_state_spin(struct machine_state *);

/* The state's address waits at the top of the stack; the red zone is what lies below it. */
#define KNOWN_STATE(name, body)                                                                    \
	__asm__(".text\n.globl " name "\n" name ":\n"                                              \
		"push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\npush %rdi\n"    \
		"lea 1264(%rdi), %rsi\nlea -128(%rsp), %rdi\nmov $16, %ecx\nrep movsq\n"           \
		"mov (%rsp), %rcx\n"                                                               \
		"vmovdqu 240(%rcx), %ymm0\nvmovdqu 272(%rcx), %ymm1\n"                             \
		"vmovdqu 304(%rcx), %ymm2\nvmovdqu 336(%rcx), %ymm3\n"                             \
		"vmovdqu 368(%rcx), %ymm4\nvmovdqu 400(%rcx), %ymm5\n"                             \
		"vmovdqu 432(%rcx), %ymm6\nvmovdqu 464(%rcx), %ymm7\n"                             \
		"vmovdqu 496(%rcx), %ymm8\nvmovdqu 528(%rcx), %ymm9\n"                             \
		"vmovdqu 560(%rcx), %ymm10\nvmovdqu 592(%rcx), %ymm11\n"                           \
		"vmovdqu 624(%rcx), %ymm12\nvmovdqu 656(%rcx), %ymm13\n"                           \
		"vmovdqu 688(%rcx), %ymm14\nvmovdqu 720(%rcx), %ymm15\n"                           \
		"mov 0(%rcx), %rax\nmov 8(%rcx), %rbx\nmov 24(%rcx), %rdx\nmov 32(%rcx), %rsi\n"   \
		"mov 40(%rcx), %rdi\nmov 48(%rcx), %rbp\nmov 56(%rcx), %r8\nmov 64(%rcx), %r9\n"   \
		"mov 72(%rcx), %r10\nmov 80(%rcx), %r11\nmov 88(%rcx), %r12\nmov 96(%rcx), %r13\n" \
		"mov 104(%rcx), %r14\nmov 112(%rcx), %r15\nmov 16(%rcx), %rcx\n" body              \
		"mov (%rsp), %rcx\n"                                                               \
		"mov %rax, 120(%rcx)\nmov %rbx, 128(%rcx)\nmov %rdx, 144(%rcx)\n"                  \
		"mov %rsi, 152(%rcx)\nmov %rdi, 160(%rcx)\nmov %rbp, 168(%rcx)\n"                  \
		"mov %r8, 176(%rcx)\nmov %r9, 184(%rcx)\nmov %r10, 192(%rcx)\n"                    \
		"mov %r11, 200(%rcx)\nmov %r12, 208(%rcx)\nmov %r13, 216(%rcx)\n"                  \
		"mov %r14, 224(%rcx)\nmov %r15, 232(%rcx)\n"                                       \
		"vmovdqu %ymm0, 752(%rcx)\nvmovdqu %ymm1, 784(%rcx)\n"                             \
		"vmovdqu %ymm2, 816(%rcx)\nvmovdqu %ymm3, 848(%rcx)\n"                             \
		"vmovdqu %ymm4, 880(%rcx)\nvmovdqu %ymm5, 912(%rcx)\n"                             \
		"vmovdqu %ymm6, 944(%rcx)\nvmovdqu %ymm7, 976(%rcx)\n"                             \
		"vmovdqu %ymm8, 1008(%rcx)\nvmovdqu %ymm9, 1040(%rcx)\n"                           \
		"vmovdqu %ymm10, 1072(%rcx)\nvmovdqu %ymm11, 1104(%rcx)\n"                         \
		"vmovdqu %ymm12, 1136(%rcx)\nvmovdqu %ymm13, 1168(%rcx)\n"                         \
		"vmovdqu %ymm14, 1200(%rcx)\nvmovdqu %ymm15, 1232(%rcx)\n"                         \
		"lea 1392(%rcx), %rdi\nlea -128(%rsp), %rsi\nmov $16, %ecx\nrep movsq\n"           \
		"vzeroupper\n"                                                                     \
		"pop %rdi\npop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n")

KNOWN_STATE("with_known_state_call", "syscall\n");
KNOWN_STATE("with_known_state_spin", "1: cmpb $0, (%rcx)\nje 1b\n");
_Static_assert(sizeof(struct machine_state) == 1520, "offsets above");

static void compare(const struct machine_state *state, int is_call)
{
	static const char *names[] = { "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8",
				       "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
	for (int i = 0; i < GENERAL; i++)
		if (i != RCX && !(is_call && (i == RAX || i == R11)) &&
		    state->before[i] != state->after[i])
			strcpy(broken, names[i]);
	for (int i = 0; i < 16; i++)
		if (memcmp(state->vector_before[i], state->vector_after[i], 32))
			snprintf(broken, sizeof broken, "ymm%d", i);
	if (memcmp(state->red_zone_before, state->red_zone_after, RED_ZONE))
		strcpy(broken, "red-zone");
}

static void known(struct machine_state *state)
{
	for (int i = 0; i < GENERAL; i++)
		state->before[i] = 0x0101010101010101u * (0x11 + i);
	for (int i = 0; i < 16; i++)
		for (int j = 0; j < 32; j++)
			state->vector_before[i][j] = i * 16 + j + 1;
	memset(state->red_zone_before, 0x5a, RED_ZONE);
}

static void run_with_known_state(struct machine_state *state, int is_call)
{
	unsigned control = _mm_getcsr(), rounding = (control & ~0x6000u) | 0x2000u;
	long double pi, pi_after;
	_mm_setcsr(rounding);
	__asm__ volatile("fldpi; fld %%st(0); fstpt %0" : "=m"(pi));
	if (is_call)
		with_known_state_call(state);
	else
		with_known_state_spin(state);
	__asm__ volatile("fstpt %0" : "=m"(pi_after));
	if (memcmp(&pi, &pi_after, 10))
		strcpy(broken, "x87");
	if ((_mm_getcsr() & ~0x3fu) != (rounding & ~0x3fu))
		strcpy(broken, "mxcsr");
	_mm_setcsr(control);
	compare(state, is_call);
}

enum { NUMBER = RAX, ANSWER = RAX, FLAG = RCX };
static const int argument_registers[] = { RDI, RSI, RDX, R10, R8, R9 };
