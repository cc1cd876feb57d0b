/* Spins on the clock and writes the longest time that it did not run, and the time of its last
 * look, to a shared page.
 * usage: clock SHARED_FILE MAPPINGS */
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    int file = open(argv[1], O_RDWR);
    _Atomic uint64_t *longest = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    size_t mappings = strtoul(argv[2], 0, 10);
    if (longest == MAP_FAILED)
        return 2;
    char *area = mappings ? mmap(0, mappings * 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                          : 0;
    for (size_t page = 0; page < mappings; page += 2)
        if (mprotect(area + page * 4096, 4096, PROT_READ | PROT_WRITE))
            return 3;
    puts("ready");
    fflush(stdout);
    for (uint64_t before = now();;) {
        uint64_t after = now();
        if (after - before > atomic_load_explicit(longest, memory_order_relaxed))
            atomic_store_explicit(longest, after - before, memory_order_relaxed);
        atomic_store_explicit(longest + 1, after, memory_order_release);
        before = after;
    }
}
