/* The least that a tracer can do: stop one thread, let it make prctl(67, ON), put it back.
 * No thread is chosen, any surprise ends it, and if it dies the target is left broken.
 * usage: injector PID; then a line `1` or `0` per call; answers each with the call's result. */
#include <elf.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t find_syscall(int pid) {
    char name[64];
    static unsigned char vdso[8192];
    Elf64_auxv_t entry;
    uint64_t base = 0;
    snprintf(name, sizeof name, "/proc/%d/auxv", pid);
    int file = open(name, O_RDONLY);
    while (read(file, &entry, sizeof entry) == sizeof entry)
        if (entry.a_type == AT_SYSINFO_EHDR)
            base = entry.a_un.a_val;
    close(file);
    snprintf(name, sizeof name, "/proc/%d/mem", pid);
    file = open(name, O_RDONLY);
    ssize_t length = pread(file, vdso, sizeof vdso, (off_t)base);
    close(file);
    for (ssize_t at = 0; at + 1 < length; at++)
        if (vdso[at] == 0x0f && vdso[at + 1] == 0x05)
            return base + (uint64_t)at;
    return 0;
}

static void must(long answer, const char *what) {
    if (answer < 0) {
        perror(what);
        exit(4);
    }
}

static long inject(int pid, uint64_t address, int on) {
    struct user_regs_struct saved, changed;
    int status;
    must(ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD), "seize");
    must(ptrace(PTRACE_INTERRUPT, pid, 0, 0), "interrupt");
    must(waitpid(pid, &status, __WALL), "wait");
    must(ptrace(PTRACE_GETREGS, pid, 0, &saved), "getregs");
    changed = saved;
    changed.orig_rax = (unsigned long long)-1;
    changed.rip = address;
    changed.rax = 157; /* prctl */
    changed.rdi = 67;  /* PR_SET_MEMORY_MERGE */
    changed.rsi = (unsigned long long)on;
    changed.rdx = changed.r10 = changed.r8 = 0;
    must(ptrace(PTRACE_SETREGS, pid, 0, &changed), "setregs");
    for (int stop = 0; stop < 2; stop++) {
        must(ptrace(PTRACE_SYSCALL, pid, 0, 0), "syscall");
        must(waitpid(pid, &status, __WALL), "wait");
    }
    must(ptrace(PTRACE_GETREGS, pid, 0, &changed), "getregs");
    must(ptrace(PTRACE_SETREGS, pid, 0, &saved), "setregs");
    must(ptrace(PTRACE_DETACH, pid, 0, 0), "detach");
    return (long)changed.rax;
}

int main(int argc, char **argv) {
    char line[16];
    if (argc != 2)
        return 2;
    int pid = atoi(argv[1]);
    uint64_t address = find_syscall(pid);
    if (!address)
        return 3;
    while (fgets(line, sizeof line, stdin)) {
        printf("%ld\n", inject(pid, address, atoi(line)));
        fflush(stdout);
    }
    return 0;
}
