/*
 * escape race FOLDER LINK COUNT [swap]: changes and reads below FOLDER, by its name, while it changes places with
 * the symlink LINK; with "swap" a child of ours makes them, else somebody else does. Each of COUNT turns tries every
 * call that takes a path. Prints how many calls succeeded and failed, and every text that was read, once each.
 *
 * escape handles FOLDER COUNT: opens COUNT file handles that were never given out, made of the one of FOLDER by
 * changing its bytes. Prints how many opened, and whether the very handle of FOLDER does.
 *
 * Exit status 0 whatever was found; the test judges.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static unsigned long succeeded, failed;
static char seen[16][256];

static void count(int result)
{
	if (result < 0)
		failed++;
	else
		succeeded++;
}

static void saw(const char *text)
{
	for (unsigned i = 0; i < 16; i++) {
		if (!strcmp(seen[i], text))
			return;
		if (!*seen[i]) {
			snprintf(seen[i], sizeof seen[i], "%s", text);
			return;
		}
	}
}

static void read_file(const char *path)
{
	char text[256] = "";
	int fd = open(path, O_RDONLY);

	count(fd);
	if (fd < 0)
		return;
	if (read(fd, text, sizeof text - 1) > 0)
		saw(text);
	close(fd);
}

static void list(const char *path)
{
	DIR *stream = opendir(path);
	struct dirent *entry;

	count(stream ? 0 : -1);
	while (stream && (entry = readdir(stream)))
		if (!strncmp(entry->d_name, "outside", 7))
			saw(entry->d_name);
	if (stream)
		closedir(stream);
}

static void write_file(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0666);

	count(fd);
	if (fd >= 0) {
		count(write(fd, "guest", 5) == 5 ? 0 : -1);
		close(fd);
	}
}

/* Every call that takes a path. */
static void try_all(const char *folder, int turn)
{
	char a[512], b[512];

	snprintf(a, sizeof a, "%s/outside-secret", folder);
	read_file(a);
	count(chmod(a, 0777));
	count(chown(a, 1, 1));
	count(truncate(a, 1));
	count(setxattr(a, "trusted.guest", "1", 1, 0));
	count(utimensat(AT_FDCWD, a, NULL, 0));
	write_file(a);
	snprintf(b, sizeof b, "%s/linked-%d", folder, turn);
	count(link(a, b));
	count(unlink(b));
	count(rename(a, b));
	count(rename(b, a));
	snprintf(a, sizeof a, "%s/made-%d", folder, turn);
	count(mkdir(a, 0755));
	count(rmdir(a));
	count(symlink("x", a));
	count(unlink(a));
	count(mknod(a, S_IFCHR | 0666, 0));
	count(unlink(a));
	write_file(a);
	snprintf(b, sizeof b, "%s/outside-folder", folder);
	count(rmdir(b));
	list(folder);
	snprintf(a, sizeof a, "%s/..", folder);
	list(a);
}

static void show_seen(void)
{
	printf(" saw");
	for (unsigned i = 0; i < 16 && *seen[i]; i++)
		printf(" %s", seen[i]);
	printf("\n");
}

/* So that the next turn asks the device anew. */
static void forget_names(void)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);

	if (fd < 0 || write(fd, "2", 1) != 1)
		exit(3);
	close(fd);
}

static int race(const char *folder, const char *link, int turns, bool swap)
{
	pid_t child = 0;

	if (swap && !(child = fork()))
		for (;;)
			renameat2(AT_FDCWD, folder, AT_FDCWD, link, RENAME_EXCHANGE);
	for (int turn = 0; turn < turns; turn++) {
		try_all(folder, turn);
		if (!swap)
			forget_names();
	}
	if (child) {
		struct stat st;

		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		if (!lstat(folder, &st) && S_ISLNK(st.st_mode)) /* the next race begins as this one did */
			renameat2(AT_FDCWD, folder, AT_FDCWD, link, RENAME_EXCHANGE);
	}
	printf("succeeded %lu failed %lu", succeeded, failed);
	show_seen();
	return 0;
}

struct handle {
	struct file_handle head;
	unsigned char bytes[MAX_HANDLE_SZ]; /* where head's own, of no length, begin */
};

/* Where an open file is, by the guest's kernel. */
static void saw_place(int fd)
{
	char name[64], target[200];
	ssize_t size;

	snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	size = readlink(name, target, sizeof target - 1);
	if (size > 0) {
		target[size] = 0;
		saw(target);
	}
}

static int handles(const char *folder, int tries)
{
	struct handle known, forged;
	int mount_id, fd, opened = 0;
	uint64_t random = 88172645463325252u;
	int at = open(folder, O_RDONLY | O_DIRECTORY);

	known.head.handle_bytes = MAX_HANDLE_SZ;
	if (name_to_handle_at(AT_FDCWD, folder, &known.head, &mount_id, 0)) {
		printf("no handles: %s\n", strerrorname_np(errno));
		return 0;
	}
	fd = open_by_handle_at(at, &known.head, O_RDONLY);
	printf("known %s", fd >= 0 ? "opened" : strerrorname_np(errno));
	for (int i = 0; i < tries; i++) {
		/* the node id comes first; one bit of it, or three of anything, is another one */
		unsigned range = i % 2 ? 8 : known.head.handle_bytes, flips = i % 2 ? 1 : 3;
		forged = known;
		while (flips--) {
			random ^= random << 13;
			random ^= random >> 7;
			random ^= random << 17;
			forged.bytes[random % range] ^= (unsigned char)(1u << (random >> 32) % 8);
		}
		if (!memcmp(&forged, &known, sizeof known.head + known.head.handle_bytes))
			continue;
		fd = open_by_handle_at(at, &forged.head, O_RDONLY);
		if (fd >= 0) {
			saw_place(fd);
			opened++;
			close(fd);
		}
	}
	printf(" forged %d", opened);
	show_seen();
	return 0;
}

int main(int argc, char **argv)
{
	if (argc >= 5 && !strcmp(argv[1], "race"))
		return race(argv[2], argv[3], atoi(argv[4]), argc > 5);
	if (argc == 4 && !strcmp(argv[1], "handles"))
		return handles(argv[2], atoi(argv[3]));
	return 2;
}
