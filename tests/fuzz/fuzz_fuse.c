/*
 * Invariant: any request bytes give exactly one outcome: a reply whose header, length and room agree, no
 * reply where there is none, or a request that waits; and no byte is stored past the reply.
 *
 * The input is the room for the reply, how it is cut, who asks for what, and the arguments.
 */
#include "fuse_server.h"
#include "fuzz.h"
#include "rafsfs.h"
#include "small_blob.h"
#include "small_image.h"

enum { ROOM = 70000, PIECES = 64, FILL = 0xA5 };

static struct rafs_image image;
static struct chunk_store *store;
static struct blob *blob;
static struct fuse_server server;
static struct fuse_context context;
static uint8_t reply[ROOM + 64];

static const uint64_t nodeids[] = { FUSE_ROOT_ID, SMALL_CROWD, SMALL_FILE, SMALL_INLINE, SMALL_LINK, SMALL_NULL, SMALL_PLAIN };

static void open_once(void)
{
    static uint8_t bytes[SMALL_SIZE];
    char why[256];

    if (store)
        return;
    small_image_fill(bytes);
    CHECK_EQ(small_image_open(&image, bytes, sizeof(bytes), why), 0);
    store = chunk_store_new();
    blob = small_blob_open(store, SMALL_CHUNKS, false);
    for (uint32_t i = 0; i < SMALL_CHUNKS; i++)
        small_blob_write(blob, i);
    server.store = store;
    CHECK_EQ(fuse_mounts_init(&server), 0);
    fuse_add_context(&server, &context);
    fuse_replace(&server, 0, rafsfs_new(&image, &blob));
}

/* Chunk 0 is READY, 1 is PENDING, 2 is what the last round left: ABSENT again. */
static void prepare_chunks(void)
{
    struct upcall_record records[16];
    bool more;

    blob_forget(blob, 0, SMALL_CHUNKS);
    blob_fail(store, blob, 0, SMALL_CHUNKS);
    while (upcall_take(&store->upcalls, records, 16, &more))
        ;
    blob_complete(store, blob, 0, 1);
    CHECK(blob_claim(blob, 1));
}

static uint32_t cut_reply(struct fuzz_input *input, struct iovec *iov, uint64_t room)
{
    uint32_t count = 0, cuts = (uint32_t)fuzz_take(input, 1) % (PIECES - 1);
    uint64_t at = 0;

    for (; cuts && at < room; cuts--) {
        uint64_t length = fuzz_take(input, 1);
        length = length < room - at ? length : room - at;
        iov[count++] = (struct iovec){ reply + at, length };
        at += length;
    }
    if (at < room)
        iov[count++] = (struct iovec){ reply + at, room - at };
    return count;
}

static void check_outcome(const struct fuse_request *request, int64_t result)
{
    struct fuse_out_header out;
    uint64_t room = request->writable_size;

    if (result == FUSE_PARKED) {
        CHECK_EQ(request->in.opcode, FUSE_READ);
        CHECK(request->wait == FUSE_WAIT_CHUNK && request->wait_blob == blob);
        CHECK(request->wait_chunk == 1 || request->wait_chunk == 2);
        CHECK_EQ(blob_state(blob, request->wait_chunk), CHUNK_PENDING);
        blob_put(request->wait_blob);
        return; /* what is in the buffer means nothing yet */
    }
    if (result == 0) {
        CHECK(room < sizeof(out) || request->in.opcode == FUSE_FORGET || request->in.opcode == FUSE_BATCH_FORGET);
    } else {
        CHECK(result >= (int64_t)sizeof(out) && (uint64_t)result <= room);
        memcpy(&out, reply, sizeof(out)); /* the pieces lie one after the other */
        CHECK_EQ(out.len, result);
        CHECK_EQ(out.unique, request->in.unique);
        CHECK(out.error <= 0 && out.error > -4096);
        CHECK(!out.error || result == sizeof(out));
    }
    for (uint64_t i = room; i < room + 64; i++)
        CHECK_EQ(reply[i], FILL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct iovec iov[PIECES], scratch[PIECES];
    struct fuzz_input input = { data, size };
    uint64_t room;
    uint8_t who, flags;

    open_once();
    prepare_chunks();
    memset(reply, FILL, sizeof(reply));
    flags = (uint8_t)fuzz_take(&input, 1);
    server.has_session = !(flags & 1);
    server.flags = flags & 2 ? FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT : 0;
    room = fuzz_take(&input, 2);
    struct fuse_request request = { .writable = iov, .scratch = scratch, .writable_size = room, .context = &context, .may_block = flags & 4 };
    request.writable_count = cut_reply(&input, iov, room);
    request.in.opcode = (uint32_t)fuzz_take(&input, flags & 8 ? 4 : 1);
    request.in.unique = fuzz_take(&input, 2);
    who = (uint8_t)fuzz_take(&input, 1);
    request.in.nodeid = who < 128 ? nodeids[who % (sizeof(nodeids) / sizeof(*nodeids))] : fuzz_take(&input, 8);
    request.args_size = (uint32_t)(input.left < FUSE_MAX_COPIED ? input.left : FUSE_MAX_COPIED);
    uint8_t *args = malloc(request.args_size + 1); /* aligned, and no longer than it says */
    CHECK(args);
    memcpy(args, input.data, request.args_size);
    request.args = args;
    request.in.len = (uint32_t)sizeof(request.in) + request.args_size;
    request.readable = (struct iovec[]){ { &request.in, sizeof(request.in) }, { args, request.args_size } };
    request.readable_count = 2;
    check_outcome(&request, fuse_handle(&server, &request));
    free(args);
    return 0;
}

/* Each operation with arguments that are nearly right. */
size_t fuzz_seed(unsigned index, uint8_t *to)
{
    const struct fuse_read_in read_in = { .offset = 4096, .size = 3000 };
    const struct fuse_init_in init_in = { .major = 7, .minor = 36, .flags = ~0u };
    static const char name[] = "file", xattr[] = "\x40\0\0\0\0\0\0\0user.color";
    uint16_t room = 4096;

    if (index >= 56 * 2)
        return 0;
    uint8_t opcode = (uint8_t)(index / 2), *at = to;
    const void *args = opcode == FUSE_INIT ? (const void *)&init_in : opcode == FUSE_LOOKUP ? name : opcode == FUSE_GETXATTR ? xattr : (const void *)&read_in;
    size_t size = opcode == FUSE_INIT ? sizeof(init_in) : opcode == FUSE_LOOKUP ? sizeof(name) : opcode == FUSE_GETXATTR ? sizeof(xattr) : sizeof(read_in);
    *at++ = 0; /* flags */
    memcpy(at, &room, sizeof(room));
    at += sizeof(room);
    *at++ = 2; /* two cuts */
    *at++ = 16;
    *at++ = 100;
    *at++ = opcode;
    *at++ = 1;
    *at++ = 0;
    *at++ = index % 2 ? 2 : 0; /* the file, or the root */
    memcpy(at, args, size);
    return (size_t)(at - to) + size;
}
