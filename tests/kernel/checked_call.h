/* Makes a system call, or spins, with a known value in every register, and says what came back
 * changed: the machine's registers, the signal mask and the alternate signal stack. */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

static char broken[32] = "whole";

#if defined(__x86_64__)
#include "checked_x86_64.h"
#elif defined(__aarch64__)
#include "checked_aarch64.h"
#endif

static void run_checked(struct machine_state *state, int is_call)
{
	static char alternate[16384];
	stack_t stack = { .ss_sp = alternate, .ss_size = sizeof alternate }, stack_after;
	sigset_t mask, mask_after;
	sigaltstack(&stack, NULL);
	sigprocmask(SIG_BLOCK, NULL, &mask);
	sigaddset(&mask, SIGRTMIN + 3);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	run_with_known_state(state, is_call);
	sigprocmask(SIG_BLOCK, NULL, &mask_after);
	for (int number = 1; number < 65; number++)
		if (sigismember(&mask, number) != sigismember(&mask_after, number))
			strcpy(broken, "signal-mask");
	sigaltstack(NULL, &stack_after);
	if (stack_after.ss_sp != stack.ss_sp || stack_after.ss_flags != 0)
		strcpy(broken, "alternate-stack");
}

static long checked_call(long number, long a, long b, long c, long d, long e, long f)
{
	struct machine_state state;
	long arguments[] = { a, b, c, d, e, f };
	known(&state);
	state.before[NUMBER] = number;
	for (int i = 0; i < 6; i++)
		state.before[argument_registers[i]] = arguments[i];
	run_checked(&state, 1);
	long answer = state.after[ANSWER];
	if (answer < 0 && answer > -4096) {
		errno = -answer;
		return -1;
	}
	return answer;
}

static void checked_spin(volatile char *flag)
{
	struct machine_state state;
	known(&state);
	state.before[FLAG] = (uint64_t)flag;
	run_checked(&state, 0);
}

#define CHECKED(nr, a, b, c, d, e, f, ...)                                                         \
	checked_call(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define checked(...) CHECKED(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)
