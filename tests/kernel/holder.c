/* Holds memory whose every page differs from the next, but not from another holder's with the same
 * salt, and says of each line that it reads whether all of it is as it was written.
 *
 * "refill" as a line drops everything and writes it again first, as a garbage collector does. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static uint64_t *area, salt;
static size_t each, all, size;

static void fill(void) {
    for (size_t at = 0; at < all; at++)
        area[at] = salt ^ (at / each);
}

static int is_intact(void) {
    size_t at = 0;
    while (at < all && area[at] == (salt ^ (at / each)))
        at++;
    return at == all;
}

static int advice(const char *word) {
    /* khugepaged puts small pages together, also merged ones that nobody else maps any longer. */
    if (!strcmp(word, "small"))
        return MADV_NOHUGEPAGE;
    if (!strcmp(word, "mergeable"))
        return MADV_MERGEABLE;
    fprintf(stderr, "usage: holder MEBIBYTES SALT [small] [mergeable]; not %s\n", word);
    exit(2);
}

int main(int count, char **words) {
    if (count < 3)
        advice("less");
    size = (size_t)atoi(words[1]) << 20;
    salt = strtoull(words[2], NULL, 16);
    each = sysconf(_SC_PAGESIZE) / sizeof *area;
    all = size / sizeof *area;
    area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    for (int index = 3; index < count; index++)
        if (madvise(area, size, advice(words[index])) != 0) {
            perror("madvise");
            return 1;
        }
    fill();
    puts("ready");
    fflush(stdout);
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        if (!strcmp(line, "refill\n")) {
            if (madvise(area, size, MADV_DONTNEED) != 0) {
                perror("madvise");
                return 1;
            }
            fill();
        }
        puts(is_intact() ? "intact" : "broken");
        fflush(stdout);
    }
    return 0;
}
