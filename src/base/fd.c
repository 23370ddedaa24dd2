/* Descriptors: see fd.h. */
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

enum { FDS_MAX = 20 }; /* a channel, a socket, and an eventfd for each of 16 gateway threads */

void fd_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

int fd_keep_over_exec(int fd)
{
    int flags = fcntl(fd, F_GETFD);
    if (flags < 0 || fcntl(fd, F_SETFD, flags & ~FD_CLOEXEC) < 0)
        return -errno;
    return 0;
}

int fd_seqpacket_pair(int ret[2])
{
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ret) < 0 ? -errno : 0;
}

union control_space {
    char bytes[CMSG_SPACE(sizeof(int) * FDS_MAX)];
    struct cmsghdr align;
};

int fd_send(int sock, const void *p, size_t n, const int *fds, size_t n_fds)
{
    union control_space space = { { 0 } };
    struct iovec iov = { (void *)(uintptr_t)p, n };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

    CHECK(n_fds <= FDS_MAX);
    if (n_fds) {
        msg.msg_control = space.bytes;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
    }
    ssize_t sent;
    do
        sent = sendmsg(sock, &msg, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : (size_t)sent == n ? 0 : -EMSGSIZE;
}

static size_t take_descriptors(struct msghdr *msg, int *ret_fds, size_t max_fds)
{
    size_t taken = 0;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            if (taken < max_fds)
                ret_fds[taken++] = fd;
            else
                close(fd);
        }
    }
    return taken;
}

ssize_t fd_receive(int sock, void *p, size_t size, int *ret_fds, size_t max_fds, size_t *ret_n_fds)
{
    union control_space space;
    struct iovec iov = { p, size };
    struct msghdr msg = { .msg_iov = &iov,
                          .msg_iovlen = 1,
                          .msg_control = space.bytes,
                          .msg_controllen = sizeof(space.bytes) };
    ssize_t n;

    do
        n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    size_t taken = take_descriptors(&msg, ret_fds, max_fds);
    if (msg.msg_flags & MSG_TRUNC) {
        for (size_t i = 0; i < taken; i++)
            close(ret_fds[i]);
        return -EMSGSIZE;
    }
    if (ret_n_fds)
        *ret_n_fds = taken;
    return n;
}

int fd_sealed_memory(const char *name, struct str bytes)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    size_t at = 0;

    if (fd < 0)
        return -errno;
    while (at < bytes.n) {
        ssize_t n = write(fd, bytes.p + at, bytes.n - at);
        if (n < 0) {
            int e = errno;
            close(fd);
            return -e;
        }
        at += (size_t)n;
    }
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0 ||
        lseek(fd, 0, SEEK_SET) < 0) {
        int e = errno;
        close(fd);
        return -e;
    }
    return fd;
}

int fd_read_all(int fd, size_t max, char **ret, size_t *ret_n)
{
    size_t cap = 4096, at = 0;
    char *p = mem_alloc(cap);

    for (;;) {
        ssize_t n = read(fd, p + at, cap - at - 1);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            int e = errno;
            mem_free(p);
            return -e;
        }
        if (n == 0)
            break;
        at += (size_t)n;
        if (at > max) {
            mem_free(p);
            return -EFBIG;
        }
        if (cap - at < 2) {
            cap *= 2;
            p = mem_realloc(p, cap);
        }
    }
    p[at] = '\0';
    *ret = p;
    *ret_n = at;
    return 0;
}
