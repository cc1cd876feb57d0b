/* Blocks once in the system call named on the command line, then says what it answered.
 *
 * Prints "ready", makes the call, prints "RESULT ERRNO MILLISECONDS EXTRA HANDLED STATE". A child or
 * a timer ends the waits that have no timeout of their own. EXTRA is a checksum where there is data.
 * HANDLED counts signals handled since the call: with "interrupt" or "restart" (SA_RESTART) as its
 * second argument it gets one half-way. STATE is "whole", or names a part of the thread's state that
 * came back changed. With "interruptible" as second argument everything waits for SIGUSR1, whose
 * handler ends it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
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
#include <sys/stat.h>
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

static volatile sig_atomic_t handled;

static void count_signal(int number)
{
	(void)number;
	handled++;
}

/* One signal for this thread, half-way through its wait. */
static void interrupt_later(int flags)
{
	struct sigaction action = { .sa_handler = count_signal, .sa_flags = flags };
	sigaction(SIGUSR2, &action, NULL);
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR2 };
	event._sigev_un._tid = gettid();
	timer_t timer;
	if (timer_create(CLOCK_MONOTONIC, &event, &timer))
		die("timer_create");
	struct itimerspec in = { .it_value = { 0, wait_ms / 2 * 1000000 } };
	timer_settime(timer, 0, &in, NULL);
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

static int handled_before;

static void ready(void)
{
	handled_before = handled;
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

static void socket_timeout(int fd, int option)
{
	struct timeval t = { wait_ms / 1000, (wait_ms % 1000) * 1000 };
	if (setsockopt(fd, SOL_SOCKET, option, &t, sizeof t))
		die("setsockopt");
}

static int listener(struct sockaddr_un *address, socklen_t *length)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	*address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	*length = sizeof *address;
	if (bind(fd, (struct sockaddr *)address, sizeof(sa_family_t)) || listen(fd, 0) ||
	    getsockname(fd, (struct sockaddr *)address, length))
		die("listen");
	return fd;
}

/* A socket to be connected where there is no room: the listener's queue holds one. */
static int late_comer(const struct sockaddr_un *address, socklen_t length)
{
	int first = socket(AF_UNIX, SOCK_STREAM, 0);
	if (connect(first, (const struct sockaddr *)address, length))
		die("connect");
	return socket(AF_UNIX, SOCK_STREAM, 0);
}

/* A ring that is asked to poll a descriptor; its completion has 77 for user_data. */
struct ring {
	int fd;
	uint32_t *tail;
	struct io_uring_cqe *completions;
};

static struct ring polling_ring(int polled)
{
	struct io_uring_params params = { 0 };
	struct ring ring = { .fd = syscall(SYS_io_uring_setup, 4, &params) };
	if (ring.fd < 0)
		die("io_uring_setup");
	char *rings = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd,
			   IORING_OFF_SQ_RING);
	struct io_uring_sqe *entries = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
					    MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQES);
	if (rings == MAP_FAILED || entries == MAP_FAILED)
		die("mmap of a ring");
	entries[0] = (struct io_uring_sqe){ .opcode = IORING_OP_POLL_ADD,
					    .fd = polled,
					    .poll32_events = POLLIN,
					    .user_data = 77 };
	*(uint32_t *)(rings + params.sq_off.array) = 0;
	__atomic_store_n((uint32_t *)(rings + params.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring.fd, 1, 0, 0, NULL, 0) != 1)
		die("io_uring_enter");
	ring.tail = (uint32_t *)(rings + params.cq_off.tail);
	ring.completions = (struct io_uring_cqe *)(rings + params.cq_off.cqes);
	return ring;
}

static void *hold_priority_lock(void *word)
{
	struct timespec t = span();
	__atomic_store_n((uint32_t *)word, gettid(), __ATOMIC_RELEASE);
	nanosleep(&t, NULL);
	syscall(SYS_futex, word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
	return NULL;
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

/* epoll_wait takes no signal mask, and passes over it. No end is -1, or no pointer to a time. */
static long epoll_endless(long number, long timeout)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 77 };
	int fds[2], fd = epoll_create1(0);
	pipe(fds);
	epoll_ctl(fd, EPOLL_CTL_ADD, fds[0], &event);
	after(fds[1], "some words");
	memset(&event, 0, sizeof event);
	long n = MEASURED(checked(number, fd, &event, 1, timeout, NULL, 8));
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
		return epoll_endless(SYS_epoll_wait, -1);
	if (!strcmp(name, "poll_endless")) {
		pipe(fds);
		after(fds[1], "some words");
		struct pollfd one = { .fd = fds[0], .events = POLLIN };
		long n = MEASURED(checked(SYS_poll, &one, 1, -1));
		extra = one.revents;
		return n;
	}
	if (!strcmp(name, "select_endless")) {
		fd_set readable;
		pipe(fds);
		FD_ZERO(&readable);
		FD_SET(fds[0], &readable);
		after(fds[1], "some words");
		long n = MEASURED(checked(SYS_select, fds[0] + 1, &readable, NULL, NULL, NULL));
		extra = n > 0 && FD_ISSET(fds[0], &readable);
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
		return epoll_endless(SYS_epoll_pwait, -1);
	if (!strcmp(name, "epoll_pwait2_endless"))
		return epoll_endless(SYS_epoll_pwait2, 0);
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
		socket_timeout(fds[0], SO_RCVTIMEO);
		return MEASURED(checked(SYS_recvfrom, fds[0], data, sizeof data));
	}
	if (!strcmp(name, "read_timeout")) {
		socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
		socket_timeout(fds[0], SO_RCVTIMEO);
		return MEASURED(checked(SYS_read, fds[0], data, sizeof data));
	}
	if (!strcmp(name, "accept_timeout")) {
		struct sockaddr_un address;
		socklen_t length;
		int fd = listener(&address, &length);
		socket_timeout(fd, SO_RCVTIMEO);
		return MEASURED(checked(SYS_accept, fd, NULL, NULL));
	}
	if (!strcmp(name, "wait4")) {
		pid_t child = after(-1, NULL);
		int status = 0;
		long found = MEASURED(checked(SYS_wait4, child, &status, 0, NULL));
		extra = WEXITSTATUS(status);
		return found == child ? 1 : found;
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
	if (!strcmp(name, "futex_pi")) {
		uint32_t *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		pthread_t other;
		pthread_create(&other, NULL, hold_priority_lock, word);
		while (!__atomic_load_n(word, __ATOMIC_ACQUIRE))
			sched_yield();
		long n = MEASURED(checked(SYS_futex, word, FUTEX_LOCK_PI, 0, NULL));
		extra = (*word & FUTEX_TID_MASK) == (uint32_t)gettid();
		return n;
	}
	if (!strcmp(name, "futex_waitv")) {
		uint32_t word = 5;
		struct futex_waitv one = { .val = 5, .uaddr = (uintptr_t)&word, .flags = FUTEX_32 };
		struct timespec until;
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += 1;
		return MEASURED(checked(SYS_futex_waitv, &one, 1, 0, &until, CLOCK_MONOTONIC));
	}
	if (!strcmp(name, "recvmsg")) {
		socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
		after(fds[1], "from afar");
		struct iovec vector = { data, sizeof data };
		struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };
		long n = MEASURED(checked(SYS_recvmsg, fds[0], &message, 0));
		extra = total(data, n);
		return n;
	}
	if (!strcmp(name, "accept")) {
		struct sockaddr_un address;
		socklen_t length;
		int fd = listener(&address, &length);
		if (!fork()) {
			nanosleep(&t, NULL);
			int peer = socket(AF_UNIX, SOCK_STREAM, 0);
			_exit(connect(peer, (struct sockaddr *)&address, length) ? 1 : 0);
		}
		long accepted = MEASURED(checked(SYS_accept4, fd, NULL, NULL, SOCK_CLOEXEC));
		return accepted > 0 ? 1 : accepted;
	}
	if (!strcmp(name, "connect") || !strcmp(name, "connect_timeout")) {
		struct sockaddr_un address;
		socklen_t length;
		int fd = listener(&address, &length), late = late_comer(&address, length);
		if (!strcmp(name, "connect_timeout"))
			socket_timeout(late, SO_SNDTIMEO);
		else if (!fork()) {
			nanosleep(&t, NULL);
			_exit(accept(fd, NULL, NULL) < 0);
		}
		return MEASURED(checked(SYS_connect, late, &address, length));
	}
	if (!strcmp(name, "rt_sigtimedwait_endless")) {
		sigaddset(&set, SIGALRM);
		sigprocmask(SIG_BLOCK, &set, NULL);
		alarm_later();
		return MEASURED(checked(SYS_rt_sigtimedwait, &set, NULL, NULL, 8));
	}
	if (!strcmp(name, "semop")) {
		int semaphores = semget(IPC_PRIVATE, 1, 0600);
		struct sembuf take = { 0, -1, 0 }, give = { 0, 1, 0 };
		if (!fork()) {
			nanosleep(&t, NULL);
			_exit(semop(semaphores, &give, 1) ? 1 : 0);
		}
		long n = MEASURED(checked(SYS_semop, semaphores, &take, 1));
		int error = errno;
		semctl(semaphores, 0, IPC_RMID);
		errno = error;
		return n;
	}
	if (!strcmp(name, "msgsnd")) {
		int messages = msgget(IPC_PRIVATE, 0600);
		struct { long kind; char text[8]; } message = { 1, "hello" };
		struct msqid_ds queue;
		msgctl(messages, IPC_STAT, &queue);
		queue.msg_qbytes = 8;
		if (msgctl(messages, IPC_SET, &queue) || msgsnd(messages, &message, 8, 0))
			die("msgsnd");
		if (!fork()) {
			nanosleep(&t, NULL);
			_exit(msgrcv(messages, &message, 8, 0, 0) != 8);
		}
		long n = MEASURED(checked(SYS_msgsnd, messages, &message, 8, 0));
		int error = errno;
		msgctl(messages, IPC_RMID, NULL);
		errno = error;
		return n;
	}
	if (!strcmp(name, "mq_timedsend")) {
		struct mq_attr attributes = { .mq_maxmsg = 1, .mq_msgsize = 8 };
		snprintf(data, sizeof data, "/ksm-test-%d", getpid());
		mqd_t messages = mq_open(data, O_CREAT | O_RDWR, 0600, &attributes);
		mq_unlink(data);
		if (mq_send(messages, "hello", 5, 0))
			die("mq_send");
		struct timespec until;
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += 1;
		return MEASURED(checked(SYS_mq_timedsend, messages, data, 5, 0, &until));
	}
	if (!strcmp(name, "fcntl")) {
		struct flock lock = { .l_type = F_WRLCK };
		int fd = memfd_create("lock", 0);
		pipe(fds);
		if (!fork()) {
			if (fcntl(fd, F_SETLK, &lock) || write(fds[1], "x", 1) != 1)
				_exit(1);
			nanosleep(&t, NULL);
			_exit(0);
		}
		read(fds[0], data, 1);
		return MEASURED(checked(SYS_fcntl, fd, F_SETLKW, &lock));
	}
	if (!strcmp(name, "openat")) {
		snprintf(data, sizeof data, "/dev/shm/ksm-test-%d", getpid());
		if (mkfifo(data, 0600))
			die(data);
		if (!fork()) {
			nanosleep(&t, NULL);
			_exit(open(data, O_WRONLY) < 0);
		}
		long opened = MEASURED(checked(SYS_openat, AT_FDCWD, data, O_RDONLY));
		int error = errno;
		unlink(data);
		errno = error;
		return opened > 0 ? 1 : opened;
	}
	if (!strcmp(name, "io_getevents_endless")) {
		aio_context_t context = 0;
		struct io_event event = { 0 };
		pipe(fds);
		struct iocb poll = { .aio_data = 77, .aio_lio_opcode = IOCB_CMD_POLL,
				     .aio_fildes = fds[0], .aio_buf = POLLIN };
		struct iocb *requests[] = { &poll };
		syscall(SYS_io_setup, 1, &context);
		if (syscall(SYS_io_submit, context, 1, requests) != 1)
			die("io_submit");
		after(fds[1], "some words");
		long n = MEASURED(checked(SYS_io_getevents, context, 1, 1, &event, NULL));
		extra = event.data;
		return n;
	}
	if (!strcmp(name, "io_uring_enter")) {
		pipe(fds);
		struct ring ring = polling_ring(fds[0]);
		struct __kernel_timespec limit = { .tv_nsec = wait_ms * 1000000 };
		struct io_uring_getevents_arg waiting = { .ts = (uintptr_t)&limit };
		return MEASURED(checked(SYS_io_uring_enter, ring.fd, 0, 1,
					IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &waiting,
					sizeof waiting));
	}
	if (!strcmp(name, "io_uring_enter_endless")) {
		pipe(fds);
		struct ring ring = polling_ring(fds[0]);
		after(fds[1], "some words");
		long n = MEASURED(checked(SYS_io_uring_enter, ring.fd, 0, 1,
					  IORING_ENTER_GETEVENTS, NULL, 0));
		extra = *ring.tail ? ring.completions[0].user_data : 0;
		return n;
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
	const char *second = count > 2 ? arguments[2] : "";
	if (!strcmp(second, "interrupt") || !strcmp(second, "restart"))
		interrupt_later(!strcmp(second, "restart") ? SA_RESTART : 0);
	long result = run(arguments[1], second);
	int error = result < 0 ? errno : 0;
	printf("%ld %d %.0f %ld %d %s\n", result, error, now_ms() - started, extra,
	       handled - handled_before, broken);
	return 0;
}
