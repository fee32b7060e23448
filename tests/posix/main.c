/*
 * posix DIR [PREFIX]: runs the cases whose name begins with PREFIX, each in a new folder of DIR and in a process
 * of its own, as root. A line each:
 *
 *   NAME RESULT ERRNO DETAILS
 *
 * RESULT is ok, bad (a step answered something else than it should), died or hung; ERRNO is the last step's, 0 for
 * none; DETAILS is what the steps answered. Exit status 0 when every case ran, whatever it answered.
 *
 * posix --identity: what `exec` runs; ends with the effective uid as status.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "posix.h"

#define CASE_TIMEOUT_S 60

static const char *prefix = "";
static unsigned case_number;
static int base_fd;

static void run_in_child(const char *name, const char *steps)
{
    static struct run run;
    int64_t last;

    for (unsigned i = 0; i < SLOTS; i++)
        run.slots[i].fd = -1;
    alarm(CASE_TIMEOUT_S);
    umask(0);
    bool is_right = run_steps(&run, steps, &last);
    printf("%s %s %s %s\n", name, is_right ? "ok" : "bad", last < 0 ? errno_name((int)-last) : "0", run.trace_size ? run.trace : "-");
    fflush(stdout);
    _exit(0);
}

static void run_case(const char *name, const char *steps)
{
    char folder[32];
    int status;

    case_number++;
    if (strncmp(name, prefix, strlen(prefix)))
        return;
    snprintf(folder, sizeof(folder), "c%u", case_number);
    if (mkdirat(base_fd, folder, 0755))
        die("cannot make %s: %s", folder, strerror(errno));
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        if (fchdir(base_fd) || chdir(folder) || chmod(".", 0755))
            die("cannot enter %s: %s", folder, strerror(errno));
        run_in_child(name, steps);
    }
    if (child < 0 || waitpid(child, &status, 0) != child)
        die("cannot run %s: %s", name, strerror(errno));
    if (WIFEXITED(status) && !WEXITSTATUS(status))
        return;
    if (WIFEXITED(status))
        exit(WEXITSTATUS(status)); /* the table is wrong: it has said how */
    printf("%s %s 0 SIG%s\n", name, WTERMSIG(status) == SIGALRM ? "hung" : "died", sigabbrev_np(WTERMSIG(status)));
}

int main(int argc, char **argv)
{
    static const struct test_case *const tables[] = {
        permission_cases, creation_cases, name_cases, rename_cases, open_cases, attribute_cases, data_cases, xattr_cases, process_cases,
    };

    if (argc == 2 && !strcmp(argv[1], "--identity"))
        return (int)geteuid();
    if (argc < 2 || argc > 3)
        die("usage: posix DIR [PREFIX]");
    if (argc == 3)
        prefix = argv[2];
    base_fd = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (base_fd < 0)
        die("%s: %s", argv[1], strerror(errno));
    for (unsigned i = 0; i < sizeof(tables) / sizeof(*tables); i++)
        expand(tables[i], run_case);
    return 0;
}
