/* Programs that check themselves: WORKLOAD STOP. Prints "ready", works until the file STOP is there,
 * then prints "whole ROUNDS". Whatever deviates from what the kernel promises is printed as
 * "broken WHAT", and ends the program with 1. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096L
#define MS 1000000L

static const char *program, *stop_file;
static long rounds;

static void broken(const char *format, ...)
{
	char text[256];
	va_list values;
	va_start(values, format);
	vsnprintf(text, sizeof text, format, values);
	va_end(values);
	dprintf(1, "broken %s (round %ld, errno %d)\n", text, rounds, errno);
	_exit(1);
}

#define CHECK(condition, ...) ((condition) ? (void)0 : broken(__VA_ARGS__))

static int stopped(void)
{
	return access(stop_file, F_OK) == 0;
}

static int64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void sleep_ms(long ms)
{
	struct timespec t = { 0, ms * MS };
	int64_t start = now_ns();
	CHECK(nanosleep(&t, NULL) == 0, "nanosleep failed");
	CHECK(now_ns() - start >= ms * MS, "nanosleep ended early");
}

static uint64_t mixed(uint64_t x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdUL;
	x ^= x >> 33;
	return x;
}

/* Memory that merges with that of its kind, is read, and is written to once merged. */
enum { MEMORY_PAGES = 64 };
static uint64_t *memory;

static void fill_page(long page, uint64_t seed)
{
	uint64_t *words = memory + page * PAGE / 8;
	for (long i = 0; i < PAGE / 8; i++)
		words[i] = mixed(seed + i % 8);
}

static void memory_start(void)
{
	memory = mmap(NULL, MEMORY_PAGES * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED, "mmap");
	for (long page = 0; page < MEMORY_PAGES; page++)
		fill_page(page, page);
}

static void memory_check(void)
{
	for (long page = 0; page < MEMORY_PAGES; page++)
		for (long i = 0; i < PAGE / 8; i++)
			CHECK(memory[page * PAGE / 8 + i] == mixed(page + i % 8), "memory");
	fill_page(rounds % MEMORY_PAGES, rounds % MEMORY_PAGES);
}

static void read_all(int fd, void *data, size_t length)
{
	for (size_t done = 0; done < length;) {
		ssize_t n = read(fd, (char *)data + done, length - done);
		CHECK(n > 0, "read answered %zd", n);
		done += n;
	}
}

static void write_whole(int fd, const void *data, size_t length)
{
	ssize_t n = write(fd, data, length);
	CHECK(n == (ssize_t)length, "write of %zu answered %zd", length, n);
}

static pid_t child_of_ours(void)
{
	pid_t parent = getpid(), child = fork();
	CHECK(child >= 0, "fork");
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
	}
	return child;
}

static void reap(pid_t child, int code)
{
	int status = 0;
	pid_t found = waitpid(child, &status, 0);
	CHECK(found == child, "waitpid answered %d", found);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == code, "a child ended with %#x", status);
}

static volatile sig_atomic_t handled;
static int self_pipe[2];

static void write_to_self(int number)
{
	int error = errno;
	(void)number;
	CHECK(write(self_pipe[1], "x", 1) == 1, "write to the self-pipe");
	handled++;
	errno = error;
}

/* A timer's handler writes to a pipe that the program polls: as many bytes as signals. */
static void run_self_pipe(void)
{
	struct sigaction action = { .sa_handler = write_to_self };
	struct itimerspec every = { { 0, 2 * MS }, { 0, 2 * MS } }, off = { 0 };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN };
	timer_t timer;
	long bytes = 0;
	char data[512];
	CHECK(pipe2(self_pipe, O_NONBLOCK) == 0, "pipe2");
	sigaction(SIGRTMIN, &action, NULL);
	CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0, "timer_create");
	timer_settime(timer, 0, &every, NULL);
	for (; !stopped(); rounds++) {
		struct pollfd one = { .fd = self_pipe[0], .events = POLLIN };
		int before = handled, n = poll(&one, 1, -1);
		CHECK(n == 1 || (n < 0 && errno == EINTR && handled > before),
		      "poll answered %d without a signal", n);
		for (ssize_t got; (got = read(self_pipe[0], data, sizeof data)) > 0;)
			bytes += got;
		if (rounds % 64 == 0)
			memory_check();
	}
	timer_settime(timer, 0, &off, NULL);
	for (ssize_t got; (got = read(self_pipe[0], data, sizeof data)) > 0;)
		bytes += got;
	CHECK(bytes == handled, "%ld bytes of %d signals", bytes, (int)handled);
}

static void count_signal(int number)
{
	(void)number;
	handled++;
}

/* Interval timers: never more ticks than time, no tick of a timerfd lost, no sleep too short. */
static void run_timers(void)
{
	const long period = 3 * MS, alarm_period = 5 * MS;
	struct sigaction action = { .sa_handler = count_signal, .sa_flags = SA_RESTART };
	struct itimerval alarms = { { 0, alarm_period / 1000 }, { 0, alarm_period / 1000 } };
	struct itimerspec every = { { 0, period }, { 0, period } };
	int fd = timerfd_create(CLOCK_MONOTONIC, 0);
	int64_t before = now_ns(), ticks = 0;
	CHECK(fd >= 0 && timerfd_settime(fd, 0, &every, NULL) == 0, "timerfd");
	int64_t after = now_ns();
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &alarms, NULL);
	for (; !stopped(); rounds++) {
		uint64_t new = 0;
		int64_t asked = now_ns();
		ssize_t n = read(fd, &new, 8);
		CHECK(n == 8, "read of a timerfd answered %zd", n);
		ticks += new;
		CHECK(ticks <= (now_ns() - before) / period, "too many ticks: %ld", (long)ticks);
		CHECK(ticks + 1 >= (asked - after) / period, "ticks lost: %ld", (long)ticks);
		struct timespec wish = { 0, 2 * MS }, left = { 0 };
		int signals = handled, answer = nanosleep(&wish, &left);
		CHECK(answer == 0 || handled > signals, "nanosleep ended without a signal");
		CHECK(now_ns() - asked + (answer ? left.tv_nsec : 0) >= wish.tv_nsec,
		      "nanosleep ended early");
		if (rounds % 64 == 0)
			memory_check();
	}
	CHECK(handled <= (now_ns() - after) / alarm_period + 1, "too many alarms: %d", (int)handled);
}

enum { CLIENTS = 4, LARGEST = 8192 };

static uint64_t exchanged[LARGEST / 8];

static void *client(void *port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = *(in_port_t *)port,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	uint64_t data[LARGEST / 8], seed = pthread_self();
	CHECK(connect(fd, (void *)&address, sizeof address) == 0, "connect");
	while (!stopped()) {
		uint64_t words = 1 + mixed(seed++) % (LARGEST / 8 - 1);
		data[0] = words;
		for (uint64_t i = 1; i < words; i++)
			data[i] = mixed(seed + i);
		write_whole(fd, data, words * 8);
		memset(data, 0, sizeof data);
		read_all(fd, data, words * 8);
		CHECK(data[0] == ~words, "echo of another message");
		for (uint64_t i = 1; i < words; i++)
			CHECK(data[i] == ~mixed(seed + i), "echo differs");
	}
	close(fd);
	return NULL;
}

static void serve(int listening)
{
	int poller = epoll_create1(0), open_clients = 0, accepted = 0;
	struct epoll_event event = { .events = EPOLLIN, .data.fd = listening };
	epoll_ctl(poller, EPOLL_CTL_ADD, listening, &event);
	while (accepted < CLIENTS || open_clients) {
		struct epoll_event events[8];
		int n = epoll_wait(poller, events, 8, -1);
		CHECK(n > 0, "epoll_wait answered %d", n);
		for (int i = 0; i < n; i++) {
			int fd = events[i].data.fd;
			if (fd == listening) {
				event.data.fd = accept(listening, NULL, NULL);
				CHECK(event.data.fd >= 0, "accept");
				epoll_ctl(poller, EPOLL_CTL_ADD, event.data.fd, &event);
				accepted++, open_clients++;
				continue;
			}
			ssize_t got = read(fd, exchanged, 8);
			CHECK(got == 8 || got == 0, "read answered %zd", got);
			if (got == 0) {
				close(fd);
				open_clients--;
				continue;
			}
			uint64_t words = exchanged[0];
			CHECK(words > 0 && words <= LARGEST / 8, "a message of %lu", words);
			read_all(fd, exchanged + 1, (words - 1) * 8);
			for (uint64_t j = 0; j < words; j++)
				exchanged[j] = ~exchanged[j];
			write_whole(fd, exchanged, words * 8);
			if (++rounds % 256 == 0)
				memory_check();
		}
	}
}

/* A server that waits in epoll under the load of a process of several threads. */
static void run_epoll(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof address;
	int listening = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(bind(listening, (void *)&address, length) == 0 && listen(listening, 8) == 0 &&
	      getsockname(listening, (void *)&address, &length) == 0, "listen");
	pid_t child = child_of_ours();
	if (child == 0) {
		pthread_t threads[CLIENTS];
		for (int i = 0; i < CLIENTS; i++)
			pthread_create(&threads[i], NULL, client, &address.sin_port);
		for (int i = 0; i < CLIENTS; i++)
			pthread_join(threads[i], NULL);
		_exit(0);
	}
	serve(listening);
	reap(child, 0);
}

enum { BLOCK = 1 << 20, PIECE = 64 << 10 };

static uint64_t sum(uint64_t total, const uint64_t *data, size_t words)
{
	for (size_t i = 0; i < words; i++)
		total = (total << 7 | total >> 57) ^ data[i];
	return total;
}

/* Blocks of 1 MiB into a pipe, each in one write; after the last, the checksum of all. Now and then
 * its data are not there yet, and it has to wait. */
static void produce(int out)
{
	uint64_t *data = malloc(BLOCK), total = 0;
	for (uint64_t block = 1;; block++) {
		int last = stopped();
		for (long i = 0; i < BLOCK / 8; i++)
			data[i] = mixed(block * BLOCK + i);
		data[0] = last;
		total = sum(total, data, BLOCK / 8);
		write_whole(out, data, BLOCK);
		if (last)
			break;
		if (block % 8 == 0)
			sleep_ms(5);
	}
	write_whole(out, &total, 8);
	_exit(0);
}

/* What comes in goes out, every bit of it turned. */
static void turn(int in, int out)
{
	uint64_t *data = malloc(PIECE);
	for (;;) {
		ssize_t n = read(in, data, PIECE);
		CHECK(n >= 0, "read answered %zd", n);
		if (n == 0)
			_exit(0);
		for (ssize_t i = 0; i < n; i++)
			((uint8_t *)data)[i] ^= 0xff;
		write_whole(out, data, n);
	}
}

/* A pipeline of three processes: not a byte of the stream is lost, doubled or changed. */
static void run_bulk(void)
{
	int first[2], second[2];
	uint64_t *data = malloc(BLOCK), total = 0, expected;
	CHECK(pipe(first) == 0 && pipe(second) == 0, "pipe");
	pid_t producer = child_of_ours();
	if (producer == 0) {
		close(first[0]);
		produce(first[1]);
	}
	close(first[1]);
	pid_t turner = child_of_ours();
	if (turner == 0) {
		close(second[0]);
		turn(first[0], second[1]);
	}
	close(first[0]);
	close(second[1]);
	for (int last = 0; !last; rounds++) {
		read_all(second[0], data, BLOCK);
		for (long i = 0; i < BLOCK / 8; i++)
			data[i] = ~data[i];
		last = data[0];
		total = sum(total, data, BLOCK / 8);
	}
	read_all(second[0], &expected, 8);
	CHECK(total == ~expected, "checksum");
	CHECK(read(second[0], data, 1) == 0, "more than the end");
	reap(producer, 0);
	reap(turner, 0);
}

/* One program after the other in the same process, each told what the last one counted. */
static void run_exec(int count, char **arguments)
{
	char number[32], check[32], pid[32];
	if (count > 3) {
		rounds = atol(arguments[3]);
		CHECK(count == 6 && strtoull(arguments[4], NULL, 16) == mixed(rounds),
		      "arguments lost in exec");
		CHECK(atoi(arguments[5]) == getpid(), "another process after exec");
		memory_check();
	}
	sleep_ms(5);
	if (stopped())
		return;
	snprintf(number, sizeof number, "%ld", rounds + 1);
	snprintf(check, sizeof check, "%lx", mixed(rounds + 1));
	snprintf(pid, sizeof pid, "%d", getpid());
	execl(program, program, "exec", stop_file, number, check, pid, NULL);
	broken("execl");
}

static int tree(int depth)
{
	int size = 1;
	if (depth) {
		pid_t children[2];
		for (int i = 0; i < 2; i++) {
			children[i] = child_of_ours();
			if (children[i] == 0)
				_exit(tree(depth - 1));
		}
		for (int i = 0; i < 2; i++) {
			reap(children[i], (1 << depth) - 1);
			size += (1 << depth) - 1;
		}
	}
	fill_page(depth, depth);
	memory_check();
	sleep_ms(2);
	return size;
}

/* A bounded fork bomb: trees of 15 processes, each of which counts its own. */
static void run_forks(void)
{
	for (; !stopped(); rounds++)
		CHECK(tree(3) == 15, "a tree of another size");
}

/* Children that share the memory until they exec. */
static void run_vfork(void)
{
	char *const arguments[] = { (char *)program, "seven", NULL };
	for (; !stopped(); rounds++) {
		volatile uint64_t on_stack = mixed(rounds);
		pid_t child = vfork();
		if (child == 0) {
			execv(program, arguments);
			_exit(1);
		}
		CHECK(child > 0, "vfork");
		reap(child, 7);
		CHECK(posix_spawn(&child, program, NULL, NULL, arguments, NULL) == 0, "posix_spawn");
		reap(child, 7);
		CHECK(on_stack == mixed(rounds), "stack");
		memory_check();
		sleep_ms(5);
	}
}

struct traffic {
	volatile long sent, received;
};
static struct traffic *traffic;

static void in_order(int number, siginfo_t *info, void *context)
{
	(void)number, (void)context;
	CHECK(info->si_value.sival_int == traffic->received, "signal %d in place of %ld",
	      info->si_value.sival_int, traffic->received);
	traffic->received++;
}

/* Queued signals at a high rate: each one arrives, once, in order. */
static void run_signals(void)
{
	struct sigaction action = { .sa_sigaction = in_order, .sa_flags = SA_SIGINFO | SA_RESTART };
	traffic = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	sigaction(SIGRTMIN + 1, &action, NULL);
	int done[2];
	char nothing;
	CHECK(pipe(done) == 0, "pipe");
	pid_t receiver = getpid(), sender = child_of_ours();
	if (sender == 0) {
		close(done[0]);
		while (!stopped()) {
			for (int i = 0; i < 16; i++) {
				union sigval value = { .sival_int = traffic->sent };
				if (traffic->sent - traffic->received > 64)
					break;
				CHECK(sigqueue(receiver, SIGRTMIN + 1, value) == 0, "sigqueue");
				traffic->sent++;
			}
			sleep_ms(1);
		}
		_exit(0);
	}
	close(done[1]);
	/* The end of the pipe is the sender's end: restarted after every signal until then. */
	while (read(done[0], &nothing, 1) != 0)
		broken("read was interrupted in spite of SA_RESTART");
	reap(sender, 0);
	CHECK(traffic->sent == traffic->received, "%ld of %ld signals", traffic->received,
	      traffic->sent);
	rounds = traffic->received;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t filled = PTHREAD_COND_INITIALIZER, emptied = PTHREAD_COND_INITIALIZER;
static long slots[8], used;
static int ended;
static __thread long own;

static void *consume(void *count)
{
	for (;;) {
		pthread_mutex_lock(&lock);
		while (!used && !ended) {
			struct timespec until;
			clock_gettime(CLOCK_REALTIME, &until);
			until.tv_sec += 1;
			int answer = pthread_cond_timedwait(&filled, &lock, &until);
			CHECK(answer == 0 || answer == ETIMEDOUT, "timedwait answered %d", answer);
		}
		if (!used) {
			pthread_mutex_unlock(&lock);
			*(long *)count = own;
			return NULL;
		}
		CHECK(slots[--used] == 7, "a slot changed");
		slots[used] = 0;
		own++;
		pthread_cond_signal(&emptied);
		pthread_mutex_unlock(&lock);
	}
}

/* A queue between threads: what goes in comes out, counted by each thread for itself. */
static void run_threads(void)
{
	pthread_t threads[4];
	long counts[4], total = 0;
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, consume, &counts[i]);
	for (; !stopped(); rounds++) {
		pthread_mutex_lock(&lock);
		while (used == 8)
			pthread_cond_wait(&emptied, &lock);
		slots[used++] = 7;
		pthread_cond_signal(&filled);
		pthread_mutex_unlock(&lock);
		if (rounds % 64 == 0) {
			memory_check();
			sleep_ms(3);
		}
	}
	pthread_mutex_lock(&lock);
	ended = 1;
	pthread_cond_broadcast(&filled);
	pthread_mutex_unlock(&lock);
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		total += counts[i];
	}
	CHECK(total == rounds, "%ld of %ld", total, rounds);
}

static volatile long steps = 3000000;

static uint64_t computed(void)
{
	uint64_t a = 1, b = 2;
	double x = 1.0, y = 0.5;
	for (long i = 0; i < steps; i++) {
		a = a * 6364136223846793005UL + b;
		b ^= a >> 7;
		x = x * 0.999999 + (double)(b & 7);
		y += x * 1e-9;
	}
	return a ^ b ^ (uint64_t)(x * 1e6) ^ (uint64_t)(y * 1e6);
}

/* One thread that never waits. */
static void run_busy(void)
{
	uint64_t expected = computed();
	for (; !stopped(); rounds++) {
		CHECK(computed() == expected, "another result");
		memory_check();
	}
}

static const struct {
	const char *name;
	void (*run)(void);
} workloads[] = {
	{ "self-pipe", run_self_pipe }, { "timers", run_timers }, { "epoll", run_epoll },
	{ "bulk", run_bulk },		{ "forks", run_forks },	  { "vfork", run_vfork },
	{ "signals", run_signals },	{ "threads", run_threads }, { "busy", run_busy },
};

int main(int count, char **arguments)
{
	if (count > 1 && !strcmp(arguments[1], "seven"))
		return 7;
	if (count < 3)
		return 2;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	program = arguments[0];
	stop_file = arguments[2];
	memory_start();
	if (count == 3)
		dprintf(1, "ready\n");
	if (!strcmp(arguments[1], "exec")) {
		run_exec(count, arguments);
	} else {
		unsigned i = 0, all = sizeof workloads / sizeof workloads[0];
		while (i < all && strcmp(workloads[i].name, arguments[1]))
			i++;
		if (i == all)
			return 2;
		workloads[i].run();
	}
	dprintf(1, "whole %ld\n", rounds);
	return 0;
}
