/*
 * treelist DIR: one line for DIR and for each entry below it, in the order of the file system.
 *
 *   path mode uid gid size mtime_s mtime_ns nlink rdev ino sha256 target xattrs
 *
 * path, target and xattrs are in hex (names need not be UTF-8), "-" where empty; mode is octal; rdev is
 * major:minor; sha256 is that of a regular file's bytes; xattrs are NAME=VALUE in hex, joined by commas, as
 * listxattr gives them. Any failing call ends the program with status 1 and says what failed.
 * The parser of these lines is treelist.py.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

/* SHA-256 after FIPS 180-4 */
struct sha256 {
	uint32_t state[8];
	uint64_t length; /* bytes taken so far */
	uint8_t block[64];
};

static const uint32_t round_constant[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate(uint32_t x, int by)
{
	return x >> by | x << (32 - by);
}

static void sha256_block(struct sha256 *sha, const uint8_t *block)
{
	uint32_t w[64], v[8];

	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 | block[4 * i + 3];
	for (int i = 16; i < 64; i++) {
		uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
		uint32_t s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
		w[i] = w[i - 16] + s0 + w[i - 7] + s1;
	}
	memcpy(v, sha->state, sizeof v);
	for (int i = 0; i < 64; i++) {
		uint32_t s1 = rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25);
		uint32_t t1 = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + round_constant[i] + w[i];
		uint32_t s0 = rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22);
		uint32_t t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
		memmove(v + 1, v, 7 * sizeof v[0]);
		v[4] += t1;
		v[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		sha->state[i] += v[i];
}

static void sha256_add(struct sha256 *sha, const uint8_t *bytes, size_t count)
{
	for (; count && sha->length % 64; count--) {
		sha->block[sha->length++ % 64] = *bytes++;
		if (sha->length % 64 == 0)
			sha256_block(sha, sha->block);
	}
	for (; count >= 64; count -= 64, bytes += 64, sha->length += 64)
		sha256_block(sha, bytes);
	memcpy(sha->block, bytes, count);
	sha->length += count;
}

static void sha256_print(struct sha256 *sha)
{
	uint64_t bits = sha->length * 8;
	uint8_t end[72] = {0x80};
	size_t padding = (119 - sha->length % 64) % 64 + 1;

	for (int i = 0; i < 8; i++)
		end[padding + i] = (uint8_t)(bits >> (56 - 8 * i));
	sha256_add(sha, end, padding + 8);
	for (int i = 0; i < 8; i++)
		printf("%08" PRIx32, sha->state[i]);
}

static char path[65536]; /* of the entry at work, for messages and the first column */

static void die(const char *call)
{
	fprintf(stderr, "treelist: %s: %s: %s\n", path, call, strerror(errno));
	exit(1);
}

static void hex(const void *bytes, size_t count)
{
	for (size_t i = 0; i < count; i++)
		printf("%02x", ((const uint8_t *)bytes)[i]);
	if (!count)
		putchar('-');
}

static void print_digest(const char *name)
{
	static uint8_t buffer[1 << 20];
	struct sha256 sha = {{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab,
			      0x5be0cd19}, 0, {0}};
	int fd = open(name, O_RDONLY);
	ssize_t got;

	if (fd < 0)
		die("open");
	while ((got = read(fd, buffer, sizeof buffer)) > 0)
		sha256_add(&sha, buffer, (size_t)got);
	if (got < 0)
		die("read");
	close(fd);
	sha256_print(&sha);
}

static void print_xattrs(const char *name)
{
	static char names[65536], value[65536];
	ssize_t length = llistxattr(name, names, sizeof names);

	if (length < 0 && errno != ENOTSUP)
		die("listxattr");
	if (length <= 0) {
		putchar('-');
		return;
	}
	for (ssize_t at = 0; at < length; at += (ssize_t)strlen(names + at) + 1) {
		ssize_t size = lgetxattr(name, names + at, value, sizeof value);

		if (size < 0)
			die(names + at);
		if (at)
			putchar(',');
		hex(names + at, strlen(names + at));
		putchar('=');
		hex(value, (size_t)size);
	}
}

static void print_entry(const char *name, const struct stat *st)
{
	static char target[65536];
	ssize_t length = 0;

	hex(path, strlen(path));
	printf(" %o %u %u %lld %lld %ld %lu %u:%u %lu ", st->st_mode, st->st_uid, st->st_gid, (long long)st->st_size,
	       (long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec, (unsigned long)st->st_nlink, major(st->st_rdev),
	       minor(st->st_rdev), (unsigned long)st->st_ino);
	if (S_ISREG(st->st_mode))
		print_digest(name);
	else
		putchar('-');
	putchar(' ');
	if (S_ISLNK(st->st_mode) && (length = readlink(name, target, sizeof target)) < 0)
		die("readlink");
	hex(target, (size_t)length);
	putchar(' ');
	print_xattrs(name);
	putchar('\n');
}

/* The entries of the working directory, which is `path`; the working directory is the same afterwards. */
static void list_folder(void)
{
	size_t length = strlen(path);
	int here = open(".", O_RDONLY | O_DIRECTORY);
	DIR *folder = here < 0 ? NULL : fdopendir(here);
	struct dirent *entry;
	struct stat st;

	if (!folder)
		die("opendir");
	while (errno = 0, (entry = readdir(folder))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		snprintf(path + length, sizeof path - length, "%s%s", length ? "/" : "", entry->d_name);
		if (lstat(entry->d_name, &st) < 0)
			die("lstat");
		if (entry->d_type != DT_UNKNOWN && (mode_t)DTTOIF(entry->d_type) != (st.st_mode & S_IFMT)) {
			errno = EINVAL;
			die("readdir and lstat see different kinds");
		}
		print_entry(entry->d_name, &st);
		if (S_ISDIR(st.st_mode)) {
			if (chdir(entry->d_name) < 0)
				die("chdir");
			list_folder();
			if (fchdir(here) < 0)
				die("fchdir");
		}
		path[length] = 0;
	}
	if (errno)
		die("readdir");
	closedir(folder);
}

int main(int argc, char **argv)
{
	struct stat st;

	if (argc != 2 || chdir(argv[1]) < 0 || lstat(".", &st) < 0)
		die("usage: treelist DIR");
	print_entry(".", &st);
	list_folder();
	if (fflush(stdout) || ferror(stdout))
		die("write");
	return 0;
}
