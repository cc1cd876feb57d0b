/* Holds memory whose every page differs from the next, and meanwhile a second thread maps and
 * touches a page ten thousand times a second and writes the longest time of each to a shared page.
 * usage: stall SHARED_FILE DENSE_MIB RESERVED_GIB */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static _Atomic uint64_t *longest; /* of mmap, of a fault */

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void note(int which, uint64_t nanoseconds) {
    if (nanoseconds > atomic_load(&longest[which]))
        atomic_store(&longest[which], nanoseconds);
}

static void *probe(void *unused) {
    (void)unused;
    for (;;) {
        uint64_t start = now();
        char *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        uint64_t mapped = now();
        *page = 1;
        uint64_t touched = now();
        munmap(page, 4096);
        note(0, mapped - start);
        note(1, touched - mapped);
        usleep(100);
    }
    return 0;
}

int main(int argc, char **argv) {
    pthread_t thread;
    if (argc != 4)
        return 2;
    int file = open(argv[1], O_RDWR);
    longest = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    size_t dense = strtoul(argv[2], 0, 10) << 20, reserved = strtoul(argv[3], 0, 10) << 30;
    if (longest == MAP_FAILED)
        return 2;
    if (dense) {
        char *area = mmap(0, dense, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        madvise(area, dense, MADV_NOHUGEPAGE);
        for (size_t page = 0; page < dense / 4096; page++) {
            uint64_t *words = (uint64_t *)(area + page * 4096);
            for (int word = 0; word < 512; word++)
                words[word] = page * 0x9e3779b97f4a7c15u + (uint64_t)word;
        }
    }
    if (reserved) {
        char *area = mmap(0, reserved, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (area == MAP_FAILED)
            return 3;
        madvise(area, reserved, MADV_NOHUGEPAGE);
        for (size_t at = 0; at < reserved; at += (size_t)16 << 30)
            area[at] = 1;
    }
    pthread_create(&thread, 0, probe, 0);
    puts("ready");
    fflush(stdout);
    for (;;)
        pause();
}
