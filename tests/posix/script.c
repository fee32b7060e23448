/* Cases expanded and their steps run. See posix.h. */
#include "posix.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <linux/falloc.h>

static const struct {
    const char *name;
    int value;
} names[] = {
#define NAME(x) { #x, x }
    NAME(O_RDONLY), NAME(O_WRONLY), NAME(O_RDWR), NAME(O_CREAT), NAME(O_EXCL), NAME(O_TRUNC), NAME(O_APPEND), NAME(O_DIRECTORY),
    NAME(O_NOFOLLOW), NAME(O_PATH), NAME(O_TMPFILE), NAME(O_DIRECT), NAME(O_SYNC), NAME(O_DSYNC), NAME(O_NONBLOCK), NAME(O_NOATIME),
    NAME(R_OK), NAME(W_OK), NAME(X_OK), NAME(F_OK), NAME(SEEK_SET), NAME(SEEK_CUR), NAME(SEEK_END), NAME(SEEK_DATA), NAME(SEEK_HOLE),
    NAME(XATTR_CREATE), NAME(XATTR_REPLACE), NAME(LOCK_SH), NAME(LOCK_EX), NAME(LOCK_UN), NAME(LOCK_NB), NAME(F_RDLCK), NAME(F_WRLCK),
    NAME(F_UNLCK), NAME(AT_SYMLINK_FOLLOW), NAME(AT_REMOVEDIR), NAME(AT_STATX_FORCE_SYNC), NAME(AT_STATX_DONT_SYNC),
    { "NOREPLACE", RENAME_NOREPLACE }, { "EXCHANGE", RENAME_EXCHANGE }, { "WHITEOUT", RENAME_WHITEOUT },
    { "KEEP_SIZE", FALLOC_FL_KEEP_SIZE }, { "PUNCH", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE }, { "PUNCH_ONLY", FALLOC_FL_PUNCH_HOLE },
    { "ZERO", FALLOC_FL_ZERO_RANGE }, { "COLLAPSE", FALLOC_FL_COLLAPSE_RANGE }, { "INSERT", FALLOC_FL_INSERT_RANGE },
    { "UNSHARE", FALLOC_FL_UNSHARE_RANGE },
};

static const struct op *const op_tables[] = { path_ops, attribute_ops, file_ops, data_ops, xattr_ops, process_ops };

void die(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fprintf(stderr, "posix: ");
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    _exit(3);
}

void detail(struct run *run, const char *format, ...)
{
    va_list arguments;
    size_t size = strlen(run->detail);

    va_start(arguments, format);
    vsnprintf(run->detail + size, sizeof(run->detail) - size, format, arguments);
    va_end(arguments);
}

int64_t number(const char *word)
{
    char *end;
    int64_t value = strtoll(word, &end, 0);

    if (*end == 'k')
        value <<= 10, end++;
    else if (*end == 'm')
        value <<= 20, end++;
    else if (*end == 'g')
        value <<= 30, end++;
    if (*end || end == word)
        die("%s is not a number", word);
    return value;
}

int flags(const char *word)
{
    char copy[256], *save;
    int value = 0;

    if (*word >= '0' && *word <= '9')
        return (int)number(word);
    snprintf(copy, sizeof(copy), "%s", word);
    for (char *one = strtok_r(copy, "+", &save); one; one = strtok_r(NULL, "+", &save)) {
        unsigned i = 0;
        while (i < sizeof(names) / sizeof(*names) && strcmp(names[i].name, one))
            i++;
        if (i == sizeof(names) / sizeof(*names))
            die("no flag is called %s", one);
        value |= names[i].value;
    }
    return value;
}

const char *errno_name(int error)
{
    const char *name = strerrorname_np(error);

    return name ? name : "E?";
}

struct slot *slot_of(struct run *run, const char *word)
{
    int64_t index = number(word);

    if (index < 0 || index >= SLOTS)
        die("there is no slot %s", word);
    return &run->slots[index];
}

int fd_of(struct run *run, const char *word) { return slot_of(run, word)->fd; }

int64_t perform(struct run *run, char **words)
{
    unsigned count = 0;

    while (words[count + 1])
        count++;
    for (unsigned t = 0; t < sizeof(op_tables) / sizeof(*op_tables); t++)
        for (const struct op *op = op_tables[t]; op->name; op++)
            if (!strcmp(op->name, words[0])) {
                if (count < op->fewest || count > op->most)
                    die("%s takes %u to %u words, not %u", op->name, op->fewest, op->most, count);
                return op->perform(run, words);
            }
    die("no operation is called %s", words[0]);
}

/* "@N", "&N" and "%XX": see posix.h. */
static char *long_word(const char *word)
{
    static char room[MAX_WORDS][MAX_WORD];
    static unsigned next;
    char *to = room[next++ % MAX_WORDS], *at = to;

    while (*word) {
        if (*word == '%' && word[1] && word[2]) {
            *at++ = (char)strtol((char[]){ word[1], word[2], 0 }, NULL, 16);
            word += 3;
        } else if (*word == '@' || *word == '&') {
            char *end;
            const char *piece = *word == '@' ? "n" : "./";
            int64_t count = strtol(word + 1, &end, 10);
            if (at - to + (int64_t)strlen(piece) * count >= MAX_WORD)
                die("%s is too long", word);
            while (count-- > 0)
                at = stpcpy(at, piece);
            word = end;
        } else {
            *at++ = *word++;
        }
        if (at - to + 1 >= MAX_WORD)
            die("%s is too long", word);
    }
    *at = 0;
    return to;
}

static void trace(struct run *run, const char *what, const char *answer)
{
    run->trace_size += (size_t)snprintf(run->trace + run->trace_size, sizeof(run->trace) - run->trace_size, "%s%s=%s",
                                        run->trace_size ? "," : "", what, answer);
    if (run->trace_size >= sizeof(run->trace))
        die("the trace is full");
}

/* Cuts "op words = expected" up; returns what is expected, NULL for success, "?" for anything. */
static const char *parse_step(char *step, char **words)
{
    const char *expected = NULL;
    unsigned count = 0;
    char *save;

    for (char *word = strtok_r(step, " \n\t", &save); word; word = strtok_r(NULL, " \n\t", &save)) {
        if (!strcmp(word, "=?")) {
            expected = "?";
        } else if (!strcmp(word, "=")) {
            expected = strtok_r(NULL, " \n\t", &save);
            if (!expected)
                die("nothing behind = of %s", step);
        } else if (expected || count == MAX_WORDS) {
            die("too many words: %s", word);
        } else {
            words[count++] = strpbrk(word, "@&%") ? long_word(word) : word;
        }
    }
    words[count] = NULL;
    return expected;
}

bool run_steps(struct run *run, const char *steps, int64_t *last)
{
    char *copy = strdup(steps), *save;
    bool is_right = true;

    *last = 0;
    for (char *step = strtok_r(copy, ";", &save); step && is_right; step = strtok_r(NULL, ";", &save)) {
        char *words[MAX_WORDS + 1], answer[sizeof(run->detail)];
        const char *expected = parse_step(step, words);
        if (!words[0])
            continue;
        run->detail[0] = 0;
        *last = perform(run, words);
        if (*last < 0)
            snprintf(answer, sizeof(answer), "%s", errno_name((int)-*last));
        else if (run->detail[0])
            snprintf(answer, sizeof(answer), "%s", run->detail);
        else
            snprintf(answer, sizeof(answer), "%lld", (long long)*last);
        if (*last || run->detail[0])
            trace(run, words[0], answer);
        is_right = !expected ? *last >= 0 : !strcmp(expected, "?") || !strcmp(expected, answer);
        if (!is_right)
            trace(run, "wanted", expected ? expected : "success");
    }
    free(copy);
    return is_right;
}

/* Puts `value` for each "$n" of `text`. */
static void substitute(char *to, size_t size, const char *text, const char *const values[])
{
    size_t at = 0;

    for (; *text; text++) {
        int index = *text == '$' ? text[1] - '1' : -1;
        if (index >= 0 && index < MAX_LISTS && values[index]) {
            at += (size_t)snprintf(to + at, size - at, "%s", values[index]);
            text++;
        } else if (at + 1 < size) {
            to[at++] = *text;
        }
        if (at + 1 >= size)
            die("a case is too long: %s", text);
    }
    to[at] = 0;
}

static void expand_from(const struct test_case *one, unsigned list, const char *labels[], const char *values[],
                        void (*each)(const char *name, const char *steps))
{
    char name[256], steps[8192], *copy, *save;

    if (list == MAX_LISTS || !one->lists[list]) {
        size_t at = (size_t)snprintf(name, sizeof(name), "%s", one->name);
        for (unsigned i = 0; i < list; i++)
            at += (size_t)snprintf(name + at, sizeof(name) - at, ".%s", labels[i]);
        substitute(steps, sizeof(steps), one->steps, values);
        each(name, steps);
        return;
    }
    copy = strdup(one->lists[list]);
    for (char *label = strtok_r(copy, "|", &save); label; label = strtok_r(NULL, "|", &save)) {
        char *equals = strchr(label, '=');
        if (equals)
            *equals = 0;
        labels[list] = label;
        values[list] = equals ? equals + 1 : label;
        expand_from(one, list + 1, labels, values, each);
    }
    values[list] = NULL;
    free(copy);
}

void expand(const struct test_case *cases, void (*each)(const char *name, const char *steps))
{
    const char *labels[MAX_LISTS], *values[MAX_LISTS] = { NULL };

    for (; cases->name; cases++)
        expand_from(cases, 0, labels, values, each);
}
