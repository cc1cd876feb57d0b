/* Starts as many processes as it is told, which do nothing, and prints their ids.
 * usage: idle COUNT; they end with their parent, which ends with its standard input. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    pid_t parent = getpid();
    for (int left = atoi(argv[1]); left > 0; left--) {
        pid_t pid = fork();
        if (pid < 0) {
            perror("fork");
            return 3;
        }
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent)
                _exit(0);
            for (;;)
                pause();
        }
        printf("%d\n", pid);
    }
    puts("ready");
    fflush(stdout);
    getchar();
    return 0;
}
