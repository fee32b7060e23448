/*
 * readprobe FILE REFERENCE: read FILE in every way that a program may, and compare with REFERENCE.
 *
 * Odd offsets and lengths, vectors, reads over and past the end, O_DIRECT, mmap private (and written to)
 * and shared, SEEK_DATA and SEEK_HOLE, sendfile. Says what differs and exits 1; silent and 0 otherwise.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define LONGEST (300 * 1024)

static const char *wanted; /* the whole of REFERENCE */
static size_t size;

static void check(int right, const char *what, size_t offset, size_t length)
{
	if (!right) {
		fprintf(stderr, "readprobe: %s at %zu + %zu: %s\n", what, offset, length, strerror(errno));
		exit(1);
	}
}

static uint64_t next_number(void)
{
	static uint64_t state = 88172645463325252u; /* xorshift: the same reads in every run */

	state ^= state << 13;
	state ^= state >> 7;
	return state ^= state << 17;
}

/* How much a read of `length` at `offset` has to give. */
static size_t expected(size_t offset, size_t length)
{
	return offset >= size ? 0 : length < size - offset ? length : size - offset;
}

static void compare(const char *got, ssize_t count, size_t offset, size_t length, const char *what)
{
	check(count == (ssize_t)expected(offset, length), what, offset, length);
	check(!count || !memcmp(got, wanted + offset, (size_t)count), what, offset, length);
}

static void probe_pread(int fd, char *buffer)
{
	const size_t edges[] = {0, 1, 4095, 4096, 4097, 65535, 65536, 65537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1,
				size / 2, size - 4097, size - 4096, size - 1, size, size + 1, size + 4096, 3 * size};

	for (size_t i = 0; i < sizeof edges / sizeof *edges; i++)
		for (size_t length = 1; length < LONGEST; length = 3 * length + 1)
			compare(buffer, pread(fd, buffer, length, (off_t)edges[i]), edges[i], length, "pread");
	for (int i = 0; i < 300; i++) {
		size_t offset = next_number() % (size + 5000), length = next_number() % LONGEST;

		compare(buffer, pread(fd, buffer, length, (off_t)offset), offset, length, "pread");
	}
}

static void probe_preadv(int fd, char *buffer)
{
	for (int i = 0; i < 50; i++) {
		size_t offset = next_number() % size, total = 0;
		struct iovec parts[7];

		for (int part = 0; part < 7; part++) {
			parts[part] = (struct iovec){buffer + total, next_number() % (LONGEST / 7)};
			total += parts[part].iov_len;
		}
		compare(buffer, preadv(fd, parts, 7, (off_t)offset), offset, total, "preadv");
	}
}

static void probe_direct(const char *name, char *buffer)
{
	int fd = open(name, O_RDONLY | O_DIRECT);

	check(fd >= 0, "open O_DIRECT", 0, 0);
	for (int i = 0; i < 50; i++) {
		size_t offset = next_number() % (size + 8192) / 4096 * 4096, length = 4096 * (1 + next_number() % 70);

		compare(buffer, pread(fd, buffer, length, (off_t)offset), offset, length, "O_DIRECT pread");
	}
	close(fd);
}

static void probe_mmap(int fd)
{
	char *private = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	char *shared = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	size_t tail = (4096 - size % 4096) % 4096;

	check(private != MAP_FAILED && shared != MAP_FAILED, "mmap", 0, size);
	for (size_t page = size / 4096 + 1; page-- > 0;) /* backwards: no read-ahead helps */
		check(private[page * 4096] == wanted[page * 4096], "private mapping", page * 4096, 1);
	compare(private, (ssize_t)size, 0, size, "private mapping");
	for (size_t i = 0; i < tail; i++)
		check(!private[size + i], "private mapping past the end", size + i, 1);
	memset(private, 0x5a, size);
	compare(shared, (ssize_t)size, 0, size, "shared mapping after writes to the private one");
	check(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED, "writable shared mapping", 0, size);
	munmap(private, size);
	munmap(shared, size);
}

static void probe_seek(int fd)
{
	off_t hole;

	check(lseek(fd, 0, SEEK_END) == (off_t)size, "SEEK_END", 0, size);
	for (off_t data = 0; (data = lseek(fd, data, SEEK_DATA)) >= 0; data = hole) {
		hole = lseek(fd, data, SEEK_HOLE);
		check(hole > data && hole <= (off_t)size, "SEEK_HOLE", (size_t)data, (size_t)hole);
	}
	check(errno == ENXIO, "SEEK_DATA at the end", size, 0);
	/* what is said to be a hole has to be zero; here: whatever lies before the first data */
	off_t first = lseek(fd, 0, SEEK_DATA);
	for (off_t i = 0; i < first; i++)
		check(!wanted[i], "hole with data in it", (size_t)i, 1);
}

static void probe_sendfile(int fd, char *buffer)
{
	int copy = memfd_create("copy", 0);
	off_t from = 4097;

	while (sendfile(copy, fd, &from, LONGEST) > 0)
		;
	check(from == (off_t)size, "sendfile", 4097, size);
	for (size_t offset = 4097; offset < size; offset += LONGEST)
		compare(buffer, pread(copy, buffer, LONGEST, (off_t)(offset - 4097)), offset, LONGEST, "sendfile");
	close(copy);
}

int main(int argc, char **argv)
{
	int fd = argc == 3 ? open(argv[1], O_RDONLY) : -1, reference = argc == 3 ? open(argv[2], O_RDONLY) : -1;
	char *buffer = aligned_alloc(4096, LONGEST);
	struct stat st;

	check(fd >= 0 && reference >= 0 && buffer, "usage: readprobe FILE REFERENCE", 0, 0);
	check(!fstat(reference, &st), "stat", 0, 0);
	size = (size_t)st.st_size;
	check(size > 1 << 21 && size % 4096, "REFERENCE is over 2 MiB and not of whole pages", 0, size);
	wanted = mmap(NULL, size, PROT_READ, MAP_PRIVATE, reference, 0);
	check(wanted != MAP_FAILED, "mmap of REFERENCE", 0, size);
	probe_pread(fd, buffer);
	probe_preadv(fd, buffer);
	probe_direct(argv[1], buffer);
	probe_mmap(fd);
	probe_seek(fd);
	probe_sendfile(fd, buffer);
	return 0;
}
