/*
 * The POSIX suite: cases are lines of a table, and what they mean is in the operations.
 *
 * A case is a name and steps, separated by ';'. A step is an operation and its words:
 *
 *   create f 0644; rename f g NOREPLACE; open 1 g O_RDWR; pread 1 0 10 = hello; stat f = ENOENT
 *
 * "= X" says what the operation answers: an errno's name, a number or its detail; without it the step has to
 * succeed; "=?" accepts everything. What each step answered is printed, so that two file systems can be
 * compared step by step. In a word "@N" stands for N times the letter n, "&N" for N times "./", "%XX" for a
 * byte. "$1" to "$4" take each value of the case's lists, "label=value" joined by '|'; the label goes into the
 * name.
 *
 * script.c expands and runs, op_*.c do, case_*.c are the tables, main.c is the program.
 */
#ifndef TESTS_POSIX_H
#define TESTS_POSIX_H
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include <sys/stat.h>

#define MAX_WORDS 16
#define MAX_WORD 5000
#define MAX_LISTS 4
#define SLOTS 10

struct slot {
    int fd; /* -1: closed */
    uint8_t *map;
    size_t map_size;
};

struct run {
    struct slot slots[SLOTS];
    char detail[6000]; /* of the step, "" if it has none */
    char trace[60000];
    size_t trace_size;
    struct stat mark;
};

/* `words` ends with NULL; words[0] is the operation's name. Returns what the call returns, or a negative errno. */
typedef int64_t operation(struct run *run, char **words);
struct op {
    const char *name;
    unsigned fewest, most; /* words behind the name */
    operation *perform;
};
/* Each table ends with an op without a name. */
extern const struct op path_ops[], attribute_ops[], file_ops[], data_ops[], xattr_ops[], process_ops[];

struct test_case {
    const char *name, *steps, *lists[MAX_LISTS];
};
/* Each table ends with a case without a name. */
extern const struct test_case permission_cases[], creation_cases[], name_cases[], rename_cases[], open_cases[], attribute_cases[],
    data_cases[], xattr_cases[], process_cases[];

/* Runs one step; the result as operations give it. Dies when there is no such operation. */
int64_t perform(struct run *run, char **words);
/* Expands a case and calls `each` with every name and its steps. */
void expand(const struct test_case *cases, void (*each)(const char *name, const char *steps));
/* Runs the steps; prints into the trace. Returns whether all answered as they should; *last is the last result. */
bool run_steps(struct run *run, const char *steps, int64_t *last);

/* For operations (script.c). */
void detail(struct run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
struct slot *slot_of(struct run *run, const char *word);
int fd_of(struct run *run, const char *word);
int64_t number(const char *word); /* decimal, 0octal or 0x; behind it k or m */
int flags(const char *word);      /* names joined by '+', or a number */
static inline unsigned mode_of(const char *word) { return (unsigned)number(word); }
const char *errno_name(int error);
/* Of a system call. */
static inline int64_t result(int64_t value) { return value < 0 ? -errno : value; }
#endif
