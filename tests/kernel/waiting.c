/* Waits once in the call named on the command line, then says how that ended: "RESULT ERRNO
 * MILLISECONDS STATE". STATE is "whole" if callee-saved and vector registers, signal mask and the
 * alternate stack came through. aarch64, where many an old call does not exist. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static const long WAIT_MS = 700;
static volatile sig_atomic_t handled;
static const char *state = "whole";

static double now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void handler(int number)
{
	handled = number;
}

/* The call with known values in x9-x28 and v0-v31; whatever changes is named. */
static long checked(long number, long a, long b, long c, long d, long e, long f)
{
	static const char *names[] = { "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26" };
	uint64_t general[8], vectors[64];
	for (int i = 0; i < 64; i++)
		vectors[i] = 0x0101010101010101u * (i + 1);
	uint64_t after[64];
	register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c, x3 __asm__("x3") = d, x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f, x9 __asm__("x9") = (long)vectors;
	register long x10 __asm__("x10") = (long)after, x11 __asm__("x11") = (long)general;
	__asm__ volatile(
		"ldp q0, q1, [x9]\nldp q2, q3, [x9, 32]\nldp q8, q9, [x9, 64]\nldp q16, q17, [x9, 96]\n"
		"ldp q30, q31, [x9, 128]\n"
		"mov x19, 119\nmov x20, 120\nmov x21, 121\nmov x22, 122\n"
		"mov x23, 123\nmov x24, 124\nmov x25, 125\nmov x26, 126\nmov x7, 77\n"
		"svc 0\n"
		"stp q0, q1, [x10]\nstp q2, q3, [x10, 32]\nstp q8, q9, [x10, 64]\nstp q16, q17, [x10, 96]\n"
		"stp q30, q31, [x10, 128]\n"
		"stp x19, x20, [x11]\nstp x21, x22, [x11, 16]\nstp x23, x24, [x11, 32]\n"
		"stp x25, x26, [x11, 48]\nmov x9, x7\n"
		: "+r"(x0), "+r"(x9)
		: "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5), "r"(x8), "r"(x10), "r"(x11)
		: "memory", "x7", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "v0", "v1", "v2",
		  "v3", "v8", "v9", "v16", "v17", "v30", "v31");
	/* The next call of a function takes the registers for itself. */
	long answer = x0, seventh = x9;
	if (seventh != 77)
		state = "x7";
	for (int i = 0; i < 8; i++)
		if (general[i] != 119u + i)
			state = names[i];
	if (memcmp(vectors, after, 160))
		state = "vectors";
	errno = answer < 0 && answer > -4096 ? -answer : 0;
	return errno ? -1 : answer;
}

#define CALL7(nr, a, b, c, d, e, f, ...)                                                           \
	checked(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define CALL(...) (printf("ready\n"), fflush(stdout), started = now_ms(), CALL7(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0))

static double started;

static int later(void)
{
	int fds[2];
	pipe(fds);
	pid_t parent = getpid();
	if (fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		usleep(WAIT_MS * 1000);
		write(fds[1], "some words", 10);
		_exit(7);
	}
	return fds[0];
}

static long wait_in(const char *name)
{
	struct timespec t = { WAIT_MS / 1000, WAIT_MS % 1000 * 1000000 }, end;
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_nsec += WAIT_MS * 1000000;
	if (end.tv_nsec >= 1000000000)
		end.tv_sec++, end.tv_nsec -= 1000000000;
	char data[64];
	int word = 0, pair[2];
	struct epoll_event event;
	sigset_t none, one;
	sigemptyset(&none);
	sigemptyset(&one);
	sigaddset(&one, SIGUSR2);
	struct pollfd silent = { .events = POLLIN };
	pipe(pair);
	silent.fd = pair[0];
	if (!strcmp(name, "nanosleep"))
		return CALL(SYS_nanosleep, &t, 0);
	if (!strcmp(name, "clock_nanosleep"))
		return CALL(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &t, 0);
	if (!strcmp(name, "clock_nanosleep_absolute"))
		return CALL(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &end, 0);
	if (!strcmp(name, "futex"))
		return CALL(SYS_futex, &word, FUTEX_WAIT, 0, &t);
	if (!strcmp(name, "futex_absolute"))
		return CALL(SYS_futex, &word, FUTEX_WAIT_BITSET, 0, &end, 0, -1);
	if (!strcmp(name, "ppoll"))
		return CALL(SYS_ppoll, &silent, 1, &t, 0, 8);
	if (!strcmp(name, "ppoll_mask"))
		return CALL(SYS_ppoll, &silent, 1, &t, &none, 8);
	if (!strcmp(name, "pselect6"))
		return CALL(SYS_pselect6, 0, 0, 0, 0, &t, 0);
	if (!strcmp(name, "epoll_pwait"))
		return CALL(SYS_epoll_pwait, epoll_create1(0), &event, 1, WAIT_MS, 0, 8);
	if (!strcmp(name, "epoll_pwait2"))
		return CALL(441, epoll_create1(0), &event, 1, &t, 0, 8);
	if (!strcmp(name, "ppoll_endless")) {
		silent.fd = later();
		return CALL(SYS_ppoll, &silent, 1, 0, 0, 8);
	}
	if (!strcmp(name, "read"))
		return CALL(SYS_read, later(), data, sizeof data);
	if (!strcmp(name, "eventfd") || !strcmp(name, "timerfd")) {
		int fd = timerfd_create(CLOCK_MONOTONIC, 0);
		struct itimerspec in = { .it_value = t };
		timerfd_settime(fd, 0, &in, NULL);
		return CALL(SYS_read, fd, data, 8);
	}
	if (!strcmp(name, "recvfrom") || !strcmp(name, "read_timeout") || !strcmp(name, "accept")) {
		int fds[2];
		struct timeval limit = { 0, WAIT_MS * 1000 };
		socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
		if (*name == 'a') {
			struct sockaddr_un address = { .sun_family = AF_UNIX };
			fds[0] = socket(AF_UNIX, SOCK_STREAM, 0);
			bind(fds[0], (void *)&address, sizeof address.sun_family);
			listen(fds[0], 1);
		}
		setsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
		if (!strcmp(name, "recvfrom"))
			return CALL(SYS_recvfrom, fds[0], data, sizeof data, 0, 0, 0);
		if (*name == 'a')
			return CALL(SYS_accept, fds[0], 0, 0);
		return CALL(SYS_read, fds[0], data, sizeof data);
	}
	if (!strcmp(name, "wait4")) {
		later();
		return CALL(SYS_wait4, -1, &word, 0, 0) > 0;
	}
	if (!strcmp(name, "waitid")) {
		siginfo_t info;
		later();
		return CALL(SYS_waitid, P_ALL, 0, &info, WEXITED, 0);
	}
	if (!strcmp(name, "rt_sigtimedwait"))
		return CALL(SYS_rt_sigtimedwait, &one, 0, &t, 8);
	if (!strcmp(name, "semtimedop")) {
		int id = semget(IPC_PRIVATE, 1, 0600);
		struct sembuf take = { 0, -1, 0 };
		long answer = CALL(SYS_semtimedop, id, &take, 1, &t);
		int error = errno;
		semctl(id, 0, IPC_RMID);
		errno = error;
		return answer;
	}
	if (!strcmp(name, "rt_sigsuspend"))
		return CALL(SYS_rt_sigsuspend, &none, 8);
	if (!strcmp(name, "io_getevents")) {
		unsigned long context = 0;
		syscall(SYS_io_setup, 4, &context);
		char events[256];
		return CALL(SYS_io_getevents, context, 1, 4, events, &t);
	}
	if (!strcmp(name, "spin")) {
		double from = started = now_ms();
		uint64_t a = 1, b = 1;
		double x = 1;
		printf("ready\n");
		fflush(stdout);
		while (now_ms() - from < WAIT_MS)
			for (int i = 0; i < 100000; i++) {
				a = a * 6364136223846793005u + 1442695040888963407u;
				b = b * 6364136223846793005u + 1442695040888963407u;
				x = x * 1.0000001;
				if (a != b)
					state = "arithmetic";
			}
		errno = 0;
		return x > 1 ? 0 : 1;
	}
	fprintf(stderr, "no such wait: %s\n", name);
	exit(2);
}

static char foreign_stack[65536];
static ucontext_t here, there;
static const char *foreign;
static long foreign_answer;

static void on_foreign_stack(void)
{
	foreign_answer = wait_in(foreign);
}

int main(int argc, char **argv)
{
	static char alternate[16384];
	stack_t stack = { .ss_sp = alternate, .ss_size = sizeof alternate }, stack_after;
	sigset_t mask, mask_after;
	struct sigaction action = { .sa_handler = handler };
	sigaction(SIGUSR1, &action, NULL);
	sigaltstack(&stack, NULL);
	sigemptyset(&mask);
	sigaddset(&mask, SIGRTMIN + 3);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	if (argc > 2 && !strcmp(argv[2], "foreign")) {
		foreign = argv[1];
		getcontext(&there);
		there.uc_stack.ss_sp = foreign_stack;
		there.uc_stack.ss_size = sizeof foreign_stack;
		there.uc_link = &here;
		makecontext(&there, on_foreign_stack, 0);
		swapcontext(&here, &there);
	}
	long answer = foreign ? foreign_answer : wait_in(argv[1]);
	int error = answer < 0 ? errno : 0;
	double elapsed = now_ms() - started;
	sigprocmask(SIG_BLOCK, NULL, &mask_after);
	if (memcmp(&mask, &mask_after, 8))
		state = "signal-mask";
	sigaltstack(NULL, &stack_after);
	if (stack_after.ss_sp != stack.ss_sp || stack_after.ss_flags)
		state = "alternate-stack";
	printf("%ld %d %.0f %s\n", answer, error, elapsed, state);
	return 0;
}
