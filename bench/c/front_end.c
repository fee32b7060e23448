/* vhost-user messages as a front-end sends them. See front_end.h. */
#include "front_end.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

enum request {
    GET_FEATURES = 1,
    SET_FEATURES = 2,
    SET_OWNER = 3,
    SET_MEM_TABLE = 5,
    SET_VRING_NUM = 8,
    SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10,
    GET_VRING_BASE = 11,
    SET_VRING_KICK = 12,
    SET_VRING_CALL = 13,
    GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16,
    GET_QUEUE_NUM = 17,
    SET_VRING_ENABLE = 18,
};

#define VERSION 1u
#define REPLY (1u << 2)
#define NEED_REPLY (1u << 3)
#define VHOST_USER_F_PROTOCOL_FEATURES (1ull << 30)
#define PROTOCOL_F_MQ (1ull << 0)
#define PROTOCOL_F_REPLY_ACK (1ull << 3)

struct header {
    uint32_t request, flags, size;
};

static void send_message(struct front_end *fe, enum request request, const void *payload, uint32_t size, int fd, bool need_reply)
{
    struct header header = { request, VERSION | (need_reply ? NEED_REPLY : 0), size };
    struct iovec iov[2] = { { &header, sizeof(header) }, { (void *)payload, size } };
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(sizeof(int))];
    } control = { 0 };
    struct msghdr message = { .msg_iov = iov, .msg_iovlen = size ? 2 : 1 };

    if (fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof(control);
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
    }
    if (sendmsg(fe->socket, &message, MSG_NOSIGNAL) != (ssize_t)(sizeof(header) + size))
        die("cannot send request %d: %s", request, strerror(errno));
}

static void receive(struct front_end *fe, enum request request, void *to, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = recv(fe->socket, (uint8_t *)to + done, size - done, 0);
        if (n == 0)
            die("the back-end closed the connection instead of answering request %d", request);
        if (n < 0 && errno != EINTR)
            die("no answer to request %d: %s", request, errno == EAGAIN ? "time-out" : strerror(errno));
        done += n > 0 ? (size_t)n : 0;
    }
}

static void receive_reply(struct front_end *fe, enum request request, void *payload, uint32_t size)
{
    struct header header;

    receive(fe, request, &header, sizeof(header));
    if (header.request != request || (header.flags & 7) != (VERSION | REPLY) || header.size != size)
        die("the reply to request %d is of request %u, flags %#x, %u bytes", request, header.request, header.flags, header.size);
    receive(fe, request, payload, size);
}

static uint64_t ask(struct front_end *fe, enum request request)
{
    uint64_t value;

    send_message(fe, request, NULL, 0, -1, false);
    receive_reply(fe, request, &value, sizeof(value));
    return value;
}

static void tell(struct front_end *fe, enum request request, const void *payload, uint32_t size, int fd)
{
    bool need_reply = fe->protocol_features & PROTOCOL_F_REPLY_ACK;
    uint64_t failed = 0;

    send_message(fe, request, payload, size, fd, need_reply);
    if (need_reply)
        receive_reply(fe, request, &failed, sizeof(failed));
    if (failed)
        die("the back-end refused request %d (%llu)", request, (unsigned long long)failed);
}

static void make_memory(struct front_end *fe, size_t size)
{
    fe->memory_size = size;
    fe->memory_used = 4096; /* gpa 0 stays unused: a zeroed descriptor then shows */
    fe->memory_fd = memfd_create("guest-memory", MFD_CLOEXEC);
    if (fe->memory_fd < 0 || ftruncate(fe->memory_fd, (off_t)size))
        die("cannot make %zu bytes of guest memory: %s", size, strerror(errno));
    fe->memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fe->memory_fd, 0);
    if (fe->memory == MAP_FAILED)
        die("cannot map %zu bytes of guest memory: %s", size, strerror(errno));
}

void front_end_connect(struct front_end *fe, const char *path, size_t memory_size, unsigned timeout_s, bool wait)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct timeval timeout = { .tv_sec = timeout_s };

    if (strlen(path) >= sizeof(address.sun_path))
        die("the path of the socket is longer than %zu bytes: %s", sizeof(address.sun_path) - 1, path);
    memcpy(address.sun_path, path, strlen(path) + 1);
    *fe = (struct front_end){ .socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) };
    make_memory(fe, memory_size);
    for (unsigned tries = timeout_s * 2000; connect(fe->socket, (struct sockaddr *)&address, sizeof(address)); tries--) {
        if (!wait || !tries || (errno != ENOENT && errno != ECONNREFUSED))
            die("cannot connect to %s: %s", path, strerror(errno));
        usleep(500);
    }
    setsockopt(fe->socket, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    setsockopt(fe->socket, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
}

void front_end_negotiate(struct front_end *fe, unsigned queues)
{
    uint64_t offered, wanted = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_INDIRECT_DESC |
                               1ull << VIRTIO_RING_F_EVENT_IDX | VHOST_USER_F_PROTOCOL_FEATURES;

    offered = ask(fe, GET_FEATURES);
    fe->virtio_features = offered & wanted;
    if (!(offered & 1ull << VIRTIO_RING_F_INDIRECT_DESC) || !(offered & 1ull << VIRTIO_F_VERSION_1))
        die("the back-end offers features %#llx: no indirect descriptors or no VERSION_1", (unsigned long long)offered);
    if (offered & VHOST_USER_F_PROTOCOL_FEATURES) {
        uint64_t accepted = ask(fe, GET_PROTOCOL_FEATURES) & (PROTOCOL_F_MQ | PROTOCOL_F_REPLY_ACK);
        send_message(fe, SET_PROTOCOL_FEATURES, &accepted, sizeof(accepted), -1, false);
        fe->protocol_features = accepted;
    }
    if (fe->protocol_features & PROTOCOL_F_MQ) {
        uint64_t most = ask(fe, GET_QUEUE_NUM);
        if (most < queues)
            die("the back-end has %llu queues, not %u", (unsigned long long)most, queues);
    }
    tell(fe, SET_OWNER, NULL, 0, -1);
    tell(fe, SET_FEATURES, &fe->virtio_features, sizeof(fe->virtio_features), -1);
    struct {
        uint32_t count, padding;
        uint64_t gpa, size, user_addr, mmap_offset;
    } table = { 1, 0, 0, fe->memory_size, (uintptr_t)fe->memory, 0 };
    tell(fe, SET_MEM_TABLE, &table, sizeof(table), fe->memory_fd);
}

void *front_end_allocate(struct front_end *fe, size_t size, size_t alignment)
{
    size_t at = (fe->memory_used + alignment - 1) & ~(alignment - 1);

    if (size > fe->memory_size || at > fe->memory_size - size)
        die("guest memory of %zu bytes is full", fe->memory_size);
    fe->memory_used = at + size;
    return fe->memory + at;
}

uint64_t front_end_gpa(const struct front_end *fe, const void *pointer)
{
    return (uint64_t)((const uint8_t *)pointer - fe->memory);
}

void front_end_start_vring(struct front_end *fe, const struct vring_setup *setup)
{
    struct {
        uint32_t index, number;
    } state = { setup->index, setup->num };
    struct {
        uint32_t index, flags;
        uint64_t desc, used, avail, log;
    } areas = { setup->index, 0, (uintptr_t)setup->desc, (uintptr_t)setup->used, (uintptr_t)setup->avail, 0 };
    uint64_t index = setup->index;

    tell(fe, SET_VRING_NUM, &state, sizeof(state), -1);
    state.number = 0;
    tell(fe, SET_VRING_BASE, &state, sizeof(state), -1);
    tell(fe, SET_VRING_ADDR, &areas, sizeof(areas), -1);
    tell(fe, SET_VRING_KICK, &index, sizeof(index), setup->kick_fd);
    tell(fe, SET_VRING_CALL, &index, sizeof(index), setup->call_fd);
    if (fe->virtio_features & VHOST_USER_F_PROTOCOL_FEATURES) {
        state.number = 1;
        tell(fe, SET_VRING_ENABLE, &state, sizeof(state), -1);
    }
}

uint32_t front_end_stop_vring(struct front_end *fe, uint32_t index)
{
    struct {
        uint32_t index, number;
    } state = { index, 0 };

    send_message(fe, GET_VRING_BASE, &state, sizeof(state), -1, false);
    receive_reply(fe, GET_VRING_BASE, &state, sizeof(state));
    if (state.index != index)
        die("GET_VRING_BASE of queue %u was answered for queue %u", index, state.index);
    return state.number;
}
