/* Holds memory whose every page differs from the next, but not from another holder's with the same
 * salt, and says of each line that it reads whether all of it is as it was written. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int count, char **words) {
    if (count != 3) {
        fprintf(stderr, "usage: holder MEBIBYTES SALT\n");
        return 2;
    }
    size_t page = sysconf(_SC_PAGESIZE), size = (size_t)atoi(words[1]) << 20;
    uint64_t salt = strtoull(words[2], NULL, 16);
    uint64_t *area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    size_t each = page / sizeof *area, all = size / sizeof *area;
    for (size_t at = 0; at < all; at++)
        area[at] = salt ^ (at / each);
    puts("ready");
    fflush(stdout);
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        size_t at = 0;
        while (at < all && area[at] == (salt ^ (at / each)))
            at++;
        puts(at == all ? "intact" : "broken");
        fflush(stdout);
    }
    return 0;
}
