/* asuser UID GID PROGRAM ARGUMENT...: runs it as an ordinary user with no group beside GID. */
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    if (setgroups(0, NULL) < 0 || setgid((gid_t)atoi(argv[2])) < 0 || setuid((uid_t)atoi(argv[1])) < 0)
        perror("asuser");
    else if (execvp(argv[3], argv + 3) < 0)
        perror(argv[3]);
    return 126;
}
