/* Operations on the process that does the others: who it is, and what others do. See posix.h. */
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "posix.h"

/* as UID[:GID[:GROUP,...]]: effective ids and supplementary groups; the real ids stay root's, so that it can go back */
static int64_t op_as(struct run *run, char **w)
{
    char *end;
    uid_t uid = (uid_t)strtol(w[1], &end, 10);
    gid_t groups[16], gid = uid;
    size_t count = 0;

    if (*end == ':')
        gid = (gid_t)strtol(end + 1, &end, 10);
    while (*end && count < 16)
        groups[count++] = (gid_t)strtol(end + 1, &end, 10);
    if (seteuid(0) || setgroups(count, groups) || setegid(gid) || seteuid(uid))
        return -errno;
    return 0;
}

static int64_t op_umask(struct run *run, char **w)
{
    umask(mode_of(w[1]));
    return 0;
}

/* Runs another operation in a child. Its answer, or the signal that it died by as detail. */
static int64_t op_fork(struct run *run, char **w)
{
    struct {
        int64_t answer;
        char detail[sizeof(run->detail)];
    } told = { -EPIPE, "" };
    int pipe_fds[2], status;

    if (pipe(pipe_fds))
        return -errno;
    pid_t child = fork();
    if (!child) {
        signal(SIGBUS, SIG_DFL);
        told.answer = perform(run, w + 1);
        memcpy(told.detail, run->detail, sizeof(told.detail));
        _exit(write(pipe_fds[1], &told, sizeof(told)) == sizeof(told) ? 0 : 1);
    }
    close(pipe_fds[1]);
    ssize_t got = read(pipe_fds[0], &told, sizeof(told)); /* a pipe's capacity is larger: in one piece, or not at all */
    close(pipe_fds[0]);
    if (child < 0 || waitpid(child, &status, 0) != child)
        return -errno;
    if (WIFSIGNALED(status)) {
        detail(run, "SIG%s", sigabbrev_np(WTERMSIG(status)));
        return 0;
    }
    if (got != sizeof(told))
        die("a child said %zd bytes", got);
    detail(run, "%s", told.detail);
    return told.answer;
}

/* Copies this very program, so that there is something to execute. */
static int64_t op_program(struct run *run, char **w)
{
    static char bytes[1 << 16];
    int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), to = open(w[1], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode_of(w[2]));
    ssize_t got;

    if (from < 0 || to < 0)
        return -errno;
    while ((got = read(from, bytes, sizeof(bytes))) > 0)
        if (write(to, bytes, (size_t)got) != got)
            return -errno;
    close(from);
    return got < 0 ? -errno : result(close(to));
}

/* Executes it; the effective uid that it ran with, or the error of execve. */
static int64_t op_exec(struct run *run, char **w)
{
    int status, pipe_fds[2], error = 0;

    if (pipe2(pipe_fds, O_CLOEXEC))
        return -errno;
    pid_t child = fork();
    if (!child) {
        execl(w[1], w[1], "--identity", NULL);
        error = errno;
        _exit(write(pipe_fds[1], &error, sizeof(error)) == sizeof(error) ? 0 : 1);
    }
    close(pipe_fds[1]);
    ssize_t got = read(pipe_fds[0], &error, sizeof(error));
    close(pipe_fds[0]);
    if (child < 0 || waitpid(child, &status, 0) != child)
        return -errno;
    if (got == sizeof(error))
        return -error;
    if (!WIFEXITED(status))
        return -EFAULT;
    return WEXITSTATUS(status);
}

/* Binds a socket to a name. */
static int64_t op_bind(struct run *run, char **w)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || strlen(w[1]) >= sizeof(address.sun_path))
        return -errno;
    memcpy(address.sun_path, w[1], strlen(w[1]));
    int64_t answer = result(bind(fd, (struct sockaddr *)&address, sizeof(address)));
    if (!answer && w[2]) { /* and speaks to itself through it */
        int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        answer = result(listen(fd, 1));
        if (!answer)
            answer = result(connect(client, (struct sockaddr *)&address, sizeof(address)));
        close(client);
    }
    close(fd);
    return answer;
}

/* A byte through a named pipe, from a child. */
static int64_t op_pipe(struct run *run, char **w)
{
    char byte = 0;
    pid_t child = fork();

    if (!child) {
        int fd = open(w[1], O_WRONLY | O_CLOEXEC);
        _exit(fd >= 0 && write(fd, "x", 1) == 1 ? 0 : 1);
    }
    int fd = open(w[1], O_RDONLY | O_CLOEXEC), status;
    if (fd < 0)
        return -errno;
    ssize_t got = read(fd, &byte, 1);
    close(fd);
    waitpid(child, &status, 0);
    detail(run, "%c", got == 1 ? byte : '?');
    return got;
}

const struct op process_ops[] = {
    { "as", 1, 1, op_as },           { "umask", 1, 1, op_umask }, { "fork", 1, MAX_WORDS, op_fork }, { "program", 2, 2, op_program },
    { "exec", 1, 1, op_exec },       { "bind", 1, 2, op_bind },   { "pipe", 1, 1, op_pipe },         { 0 },
};
