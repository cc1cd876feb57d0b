/* Blocks once in the system call named on the command line, then says what it answered.
 *
 * Prints "ready", makes the call, prints "RESULT ERRNO MILLISECONDS EXTRA STATE". A child or a timer
 * ends the waits that have no timeout of their own. EXTRA is a checksum where there is data. STATE
 * is "whole", or names a part of the thread's state that came back changed. With "interruptible" as
 * second argument everything waits for SIGUSR1, whose handler ends it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <mqueue.h>
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
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "checked_call.h"

static long wait_ms = 700;
static volatile long extra;

static double now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static struct timespec span(void)
{
	return (struct timespec){ wait_ms / 1000, (wait_ms % 1000) * 1000000 };
}

static struct timespec deadline(void)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += wait_ms * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	return until;
}

static void die(const char *what)
{
	perror(what);
	exit(2);
}

/* A child that sleeps, then writes to a descriptor (or only exits); dies with its parent. */
static pid_t after(int fd, const char *text)
{
	pid_t parent = getpid(), child = fork();
	if (child < 0)
		die("fork");
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		struct timespec t = span();
		nanosleep(&t, NULL);
		if (fd >= 0 && write(fd, text, strlen(text)) < 0)
			_exit(1);
		_exit(7);
	}
	return child;
}

static void handler(int number)
{
	extra = number;
}

static void alarm_later(void)
{
	struct sigaction action = { .sa_handler = handler };
	sigaction(SIGALRM, &action, NULL);
	timer_t timer;
	if (timer_create(CLOCK_MONOTONIC, NULL, &timer))
		die("timer_create");
	struct itimerspec in = { .it_value = span() };
	timer_settime(timer, 0, &in, NULL);
}

static long total(const char *data, ssize_t length)
{
	long sum = 0;
	for (ssize_t i = 0; i < length; i++)
		sum += data[i];
	return sum;
}

static void ready(void)
{
	printf("ready\n");
	fflush(stdout);
}

static double started;
#define MEASURED(call) (ready(), (call))

static void *hold_condition(void *mutex)
{
	struct timespec t = span();
	nanosleep(&t, NULL);
	pthread_mutex_unlock(mutex);
	return NULL;
}

static void receive_timeout(int fd)
{
	struct timeval t = { wait_ms / 1000, (wait_ms % 1000) * 1000 };
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t))
		die("setsockopt");
}

/* A stack as a runtime of its own has them: nothing that the kernel or libc knows of. */
static char foreign_stack[65536];
static ucontext_t here, there;
static const char *foreign_call;
static long foreign_answer;

static void run_foreign(void)
{
	struct timespec t = span();
	int fds[2];
	char data[64];
	if (!strcmp(foreign_call, "nanosleep")) {
		foreign_answer = MEASURED(checked(SYS_nanosleep, &t, NULL));
		return;
	}
	pipe(fds);
	after(fds[1], "some words");
	foreign_answer = MEASURED(checked(SYS_read, fds[0], data, sizeof data));
	extra = total(data, foreign_answer);
}

static long on_foreign_stack(const char *name)
{
	foreign_call = name;
	getcontext(&there);
	there.uc_stack.ss_sp = foreign_stack;
	there.uc_stack.ss_size = sizeof foreign_stack;
	there.uc_link = &here;
	makecontext(&there, run_foreign, 0);
	swapcontext(&here, &there);
	return foreign_answer;
}

/* epoll_wait takes no signal mask, and passes over it. */
static long epoll_endless(long number)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 77 };
	int fds[2], fd = epoll_create1(0);
	pipe(fds);
	epoll_ctl(fd, EPOLL_CTL_ADD, fds[0], &event);
	after(fds[1], "some words");
	memset(&event, 0, sizeof event);
	long n = MEASURED(checked(number, fd, &event, 1, -1, NULL, 8));
	extra = event.data.u64;
	return n;
}

#ifdef SYS_poll
/* Calls that newer machines do without. */
static long run_old(const char *name)
{
	int fds[2];

	if (!strcmp(name, "epoll_wait")) {
		struct epoll_event event;
		int fd = epoll_create1(0);
		return MEASURED(checked(SYS_epoll_wait, fd, &event, 1, wait_ms));
	}
	if (!strcmp(name, "poll")) {
		pipe(fds);
		struct pollfd one = { .fd = fds[0], .events = POLLIN };
		return MEASURED(checked(SYS_poll, &one, 1, wait_ms));
	}
	if (!strcmp(name, "select")) {
		struct timeval v = { wait_ms / 1000, (wait_ms % 1000) * 1000 };
		return MEASURED(checked(SYS_select, 0, NULL, NULL, NULL, &v));
	}
	if (!strcmp(name, "epoll_wait_endless"))
		return epoll_endless(SYS_epoll_wait);
	if (!strcmp(name, "poll_endless")) {
		pipe(fds);
		after(fds[1], "some words");
		struct pollfd one = { .fd = fds[0], .events = POLLIN };
		long n = MEASURED(checked(SYS_poll, &one, 1, -1));
		extra = one.revents;
		return n;
	}
	if (!strcmp(name, "pause")) {
		alarm_later();
		return MEASURED(checked(SYS_pause));
	}
	die("no such call");
	return -1;
}
#else
static long run_old(const char *name)
{
	(void)name;
	die("no such call");
	return -1;
}
#endif

#define turn_chain(chain)                                                                          \
	do {                                                                                       \
		chain.a = chain.a * 6364136223846793005UL + chain.b;                               \
		chain.b ^= chain.a >> 7;                                                           \
		chain.c += chain.b * 3;                                                            \
		chain.d = (chain.d << 5 | chain.d >> 59) ^ chain.c;                                \
		chain.vector = chain.vector * 0.999999 + (double)(chain.d & 7);                    \
	} while (0)

static long run(const char *name, const char *path)
{
	struct timespec t = span();
	char data[64];
	int fds[2];
	sigset_t set;
	sigemptyset(&set);

	if (!strcmp(name, "epoll_pwait")) {
		struct epoll_event event;
		int fd = epoll_create1(0);
		sigaddset(&set, SIGUSR1);
		return MEASURED(checked(SYS_epoll_pwait, fd, &event, 1, wait_ms, &set, 8));
	}
	if (!strcmp(name, "epoll_pwait2")) {
		struct epoll_event event;
		int fd = epoll_create1(0);
		return MEASURED(checked(SYS_epoll_pwait2, fd, &event, 1, &t, NULL, 0));
	}
	if (!strcmp(name, "ppoll")) {
		pipe(fds);
		struct pollfd one = { .fd = fds[0], .events = POLLIN };
		sigaddset(&set, SIGUSR1);
		return MEASURED(checked(SYS_ppoll, &one, 1, &t, &set, 8));
	}
	if (!strcmp(name, "pselect6")) {
		struct { sigset_t *set; size_t bytes; } mask = { &set, 8 };
		return MEASURED(checked(SYS_pselect6, 0, NULL, NULL, NULL, &t, &mask));
	}
	if (!strcmp(name, "futex")) {
		uint32_t word = 5;
		return MEASURED(checked(SYS_futex, &word, FUTEX_WAIT, 5, &t, NULL, 0));
	}
	if (!strcmp(name, "futex_absolute")) {
		uint32_t word = 5;
		struct timespec until = deadline();
		return MEASURED(checked(SYS_futex, &word, FUTEX_WAIT_BITSET, 5, &until, NULL, -1));
	}
	if (!strcmp(name, "mutex")) {
		pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
		pthread_t other;
		pthread_mutex_lock(&mutex);
		pthread_create(&other, NULL, hold_condition, &mutex);
		return MEASURED(pthread_mutex_lock(&mutex));
	}
	if (!strcmp(name, "nanosleep"))
		return MEASURED(checked(SYS_nanosleep, &t, NULL));
	if (!strcmp(name, "clock_nanosleep")) {
		struct timespec until = deadline();
		return MEASURED(checked(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME,
					&until, NULL));
	}
	if (!strcmp(name, "clock_nanosleep_relative"))
		return MEASURED(checked(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &t, NULL));
	if (!strcmp(name, "epoll_pwait_endless"))
		return epoll_endless(SYS_epoll_pwait);
	if (!strcmp(name, "ppoll_endless")) {
		pipe(fds);
		after(fds[1], "some words");
		struct pollfd one = { .fd = fds[0], .events = POLLIN };
		long n = MEASURED(checked(SYS_ppoll, &one, 1, NULL, NULL, 8));
		extra = one.revents;
		return n;
	}
	if (!strcmp(name, "futex_endless")) {
		uint32_t *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (!fork()) {
			nanosleep(&t, NULL);
			*word = 1;
			_exit(syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0) != 1);
		}
		long n = MEASURED(checked(SYS_futex, word, FUTEX_WAIT, 0, NULL));
		extra = *word;
		return n;
	}
	if (!strcmp(name, "read")) {
		pipe(fds);
		after(fds[1], "some words");
		long n = MEASURED(checked(SYS_read, fds[0], data, sizeof data));
		extra = total(data, n);
		return n;
	}
	if (!strcmp(name, "readv")) {
		pipe(fds);
		after(fds[1], "some words");
		struct iovec { void *base; size_t length; } vector = { data, sizeof data };
		long n = MEASURED(checked(SYS_readv, fds[0], &vector, 1));
		extra = total(data, n);
		return n;
	}
	if (!strcmp(name, "eventfd")) {
		int fd = eventfd(0, 0);
		uint64_t value = 0;
		if (!fork()) {
			nanosleep(&t, NULL);
			value = 42;
			_exit(write(fd, &value, 8) == 8 ? 0 : 1);
		}
		long n = MEASURED(checked(SYS_read, fd, &value, 8));
		extra = value;
		return n;
	}
	if (!strcmp(name, "timerfd")) {
		int fd = timerfd_create(CLOCK_MONOTONIC, 0);
		struct itimerspec in = { .it_value = t };
		timerfd_settime(fd, 0, &in, NULL);
		uint64_t value = 0;
		long n = MEASURED(checked(SYS_read, fd, &value, 8));
		extra = value;
		return n;
	}
	if (!strcmp(name, "recvfrom")) {
		socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
		after(fds[1], "from afar");
		long n = MEASURED(checked(SYS_recvfrom, fds[0], data, sizeof data));
		extra = total(data, n);
		return n;
	}
	if (!strcmp(name, "recv_timeout")) {
		socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
		receive_timeout(fds[0]);
		return MEASURED(checked(SYS_recvfrom, fds[0], data, sizeof data));
	}
	if (!strcmp(name, "read_timeout")) {
		socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
		receive_timeout(fds[0]);
		return MEASURED(checked(SYS_read, fds[0], data, sizeof data));
	}
	if (!strcmp(name, "accept_timeout")) {
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);
		struct sockaddr_un address = { .sun_family = AF_UNIX };
		bind(fd, (struct sockaddr *)&address, sizeof(sa_family_t));
		listen(fd, 1);
		receive_timeout(fd);
		return MEASURED(checked(SYS_accept, fd, NULL, NULL));
	}
	if (!strcmp(name, "wait4")) {
		pid_t child = after(-1, NULL);
		int status = 0;
		long found = MEASURED(checked(SYS_wait4, child, &status, 0, NULL));
		extra = WEXITSTATUS(status);
		return found == child;
	}
	if (!strcmp(name, "waitid")) {
		pid_t child = after(-1, NULL);
		siginfo_t info;
		long found = MEASURED(checked(SYS_waitid, P_PID, child, &info, WEXITED));
		extra = info.si_status;
		return found;
	}
	if (!strcmp(name, "rt_sigtimedwait")) {
		sigaddset(&set, SIGUSR1);
		sigprocmask(SIG_BLOCK, &set, NULL);
		return MEASURED(checked(SYS_rt_sigtimedwait, &set, NULL, &t, 8));
	}
	if (!strcmp(name, "semtimedop")) {
		int semaphores = semget(IPC_PRIVATE, 1, 0600);
		struct sembuf take = { 0, -1, 0 };
		long n = MEASURED(checked(SYS_semtimedop, semaphores, &take, 1, &t));
		int error = errno;
		semctl(semaphores, 0, IPC_RMID);
		errno = error;
		return n;
	}
	if (!strcmp(name, "msgrcv")) {
		int messages = msgget(IPC_PRIVATE, 0600);
		struct { long kind; char text[8]; } message = { 1, "hello" };
		if (!fork()) {
			nanosleep(&t, NULL);
			_exit(msgsnd(messages, &message, 8, 0) ? 1 : 0);
		}
		memset(&message, 0, sizeof message);
		long n = MEASURED(checked(SYS_msgrcv, messages, &message, 8, 0, 0));
		int error = errno;
		extra = total(message.text, 5);
		msgctl(messages, IPC_RMID, NULL);
		errno = error;
		return n;
	}
	if (!strcmp(name, "mq_timedreceive")) {
		struct mq_attr attributes = { .mq_maxmsg = 1, .mq_msgsize = 8 };
		snprintf(data, sizeof data, "/ksm-test-%d", getpid());
		mqd_t messages = mq_open(data, O_CREAT | O_RDWR, 0600, &attributes);
		mq_unlink(data);
		struct timespec until;
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += 1;
		return MEASURED(checked(SYS_mq_timedreceive, messages, data, sizeof data, NULL,
					&until));
	}
	if (!strcmp(name, "rt_sigsuspend")) {
		sigaddset(&set, SIGUSR1);
		alarm_later();
		return MEASURED(checked(SYS_rt_sigsuspend, &set, 8));
	}
	if (!strcmp(name, "flock")) {
		int one = memfd_create("lock", 0);
		snprintf(data, sizeof data, "/proc/self/fd/%d", one);
		int two = open(data, O_RDWR);
		flock(one, LOCK_EX);
		if (!fork()) {
			close(two);
			nanosleep(&t, NULL);
			flock(one, LOCK_UN);
			_exit(0);
		}
		return MEASURED(checked(SYS_flock, two, LOCK_EX));
	}
	if (!strcmp(name, "io_getevents")) {
		aio_context_t context = 0;
		struct io_event event;
		syscall(SYS_io_setup, 1, &context);
		return MEASURED(checked(SYS_io_getevents, context, 1, 1, &event, &t));
	}
	if (!strcmp(name, "strict")) {
		/* Only read, write and exit are left to it: any other call kills. */
		ready();
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
		syscall(SYS_read, 0, data, 1);
		syscall(SYS_write, 1, "alive\n", 6);
		syscall(SYS_exit, 0);
	}
	if (!strcmp(name, "spin")) {
		/* Two equal chains over many registers, unequal for ever after one lost bit; until SIGUSR1. */
		struct chain { uint64_t a, b, c, d; double vector; } one = { 1, 2, 3, 4, 1.0 }, two = one;
		/* Or the compiler would reckon them as one. */
		__asm__ volatile("" : "+m"(two));
		ready();
		while (!extra)
			for (long i = 0; i < 100000; i++) {
				turn_chain(one);
				turn_chain(two);
			}
		if (memcmp(&one, &two, sizeof one))
			strcpy(broken, "arithmetic");
		return 0;
	}
	if (!strcmp(name, "known")) {
		/* Spins with a known value in every register until the file's first byte is set. */
		int fd = open(path, O_RDWR);
		char *flag = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (flag == MAP_FAILED)
			die(path);
		ready();
		checked_spin(flag);
		return 0;
	}
	if (!strncmp(name, "foreign_", 8))
		return on_foreign_stack(name + 8);
	return run_old(name);
}

int main(int count, char **arguments)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (count < 2)
		return 2;
	if (count > 2 && !strcmp(arguments[2], "interruptible")) {
		sigaction(SIGUSR1, &(struct sigaction){ .sa_handler = handler }, NULL);
		wait_ms = 60000;
	}
	/* Before any child or timer is started, so that nothing may end sooner than they say. */
	started = now_ms();
	errno = 0;
	long result = run(arguments[1], count > 2 ? arguments[2] : NULL);
	int error = result < 0 ? errno : 0;
	printf("%ld %d %.0f %ld %s\n", result, error, now_ms() - started, extra, broken);
	return 0;
}
