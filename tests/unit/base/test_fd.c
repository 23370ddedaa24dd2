/* Descriptors: datagrams with SCM_RIGHTS in every shape, sealed memory, reading whole files. */
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "test.h"

static unsigned open_descriptors(void)
{
    unsigned n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static bool same_file(int a, int b)
{
    off_t at = lseek(a, 0, SEEK_CUR) == 5 ? 9 : 5;
    CHECK(lseek(a, at, SEEK_SET) == at);
    return lseek(b, 0, SEEK_CUR) == at; /* one open file has one offset */
}

TEST(fd_close_stores_minus_one)
{
    int fd = dup(0);
    fd_close(&fd);
    EXPECT_INT(fd, -1);
    fd_close(&fd);
}

TEST(fd_keep_over_exec_clears_the_flag)
{
    int pair[2];
    EXPECT_INT(fd_seqpacket_pair(pair), 0);
    EXPECT_INT(fcntl(pair[0], F_GETFD), FD_CLOEXEC);
    EXPECT_INT(fd_keep_over_exec(pair[0]), 0);
    EXPECT_INT(fcntl(pair[0], F_GETFD), 0);
    EXPECT_INT(fd_keep_over_exec(-1), -EBADF);
}

TEST(fd_datagram_keeps_its_bounds)
{
    int pair[2];
    char in[16];
    size_t n_fds = 99;

    EXPECT_INT(fd_seqpacket_pair(pair), 0);
    EXPECT_INT(fd_send(pair[0], "one", 3, NULL, 0), 0);
    EXPECT_INT(fd_send(pair[0], "three", 5, NULL, 0), 0);
    EXPECT_INT(fd_receive(pair[1], in, sizeof(in), NULL, 0, &n_fds), 3);
    EXPECT_INT(n_fds, 0);
    EXPECT_INT(fd_receive(pair[1], in, sizeof(in), NULL, 0, NULL), 5);
    EXPECT_INT(memcmp(in, "three", 5), 0);
}

TEST(fd_descriptors_arrive_in_order_and_close_on_exec)
{
    enum { N = 16 };
    int pair[2], sent[N], got[N];
    char in[4];
    size_t n_fds = 0;

    EXPECT_INT(fd_seqpacket_pair(pair), 0);
    for (int i = 0; i < N; i++)
        sent[i] = memfd_create("t", 0);
    EXPECT_INT(fd_send(pair[0], "x", 1, sent, N), 0);
    EXPECT_INT(fd_receive(pair[1], in, sizeof(in), got, N, &n_fds), 1);
    EXPECT_INT(n_fds, N);
    for (int i = 0; i < N; i++) {
        EXPECT(same_file(sent[i], got[i]));
        EXPECT_INT(fcntl(got[i], F_GETFD), FD_CLOEXEC);
    }
}

TEST(fd_more_descriptors_than_wanted_are_closed)
{
    int pair[2], sent[3] = { 0, 0, 0 }, got[1];
    char in[4];
    size_t n_fds = 0;

    EXPECT_INT(fd_seqpacket_pair(pair), 0);
    unsigned before = open_descriptors();
    EXPECT_INT(fd_send(pair[0], "x", 1, sent, 3), 0);
    EXPECT_INT(fd_receive(pair[1], in, sizeof(in), got, 1, &n_fds), 1);
    EXPECT_INT(n_fds, 1);
    EXPECT_INT(open_descriptors(), before + 1);
    EXPECT_INT(fd_send(pair[0], "x", 1, sent, 3), 0);
    EXPECT_INT(fd_receive(pair[1], in, sizeof(in), NULL, 0, NULL), 1);
    EXPECT_INT(open_descriptors(), before + 1);
}

TEST(fd_datagram_too_long_is_an_error_and_leaks_nothing)
{
    int pair[2], sent[2] = { 0, 0 }, got[2] = { -7, -7 };
    char in[4];
    size_t n_fds = 99;

    EXPECT_INT(fd_seqpacket_pair(pair), 0);
    unsigned before = open_descriptors();
    EXPECT_INT(fd_send(pair[0], "12345", 5, sent, 2), 0);
    EXPECT_INT(fd_receive(pair[1], in, sizeof(in), got, 2, &n_fds), -EMSGSIZE);
    EXPECT_INT(n_fds, 99); /* written on success only */
    EXPECT_INT(open_descriptors(), before);
    EXPECT_INT(fd_send(pair[0], "1234", 4, NULL, 0), 0);
    EXPECT_INT(fd_receive(pair[1], in, sizeof(in), got, 2, &n_fds), 4);
}

TEST(fd_peer_gone_is_an_end_and_a_broken_pipe_without_a_signal)
{
    int pair[2];
    char in[4];

    EXPECT_INT(fd_seqpacket_pair(pair), 0);
    close(pair[1]);
    EXPECT_INT(fd_send(pair[0], "x", 1, NULL, 0), -EPIPE);
    EXPECT_INT(fd_receive(pair[0], in, sizeof(in), NULL, 0, NULL), 0);
}

TEST(fd_would_block_is_an_error_on_both_sides)
{
    int pair[2], r;
    char block[1024] = { 0 };

    EXPECT_INT(fd_seqpacket_pair(pair), 0);
    for (int i = 0; i < 2; i++)
        CHECK(fcntl(pair[i], F_SETFL, O_NONBLOCK) == 0);
    EXPECT_INT(fd_receive(pair[1], block, sizeof(block), NULL, 0, NULL), -EAGAIN);
    while ((r = fd_send(pair[0], block, sizeof(block), NULL, 0)) == 0) {
    }
    EXPECT_INT(r, -EAGAIN);
}

TEST(fd_sealed_memory_cannot_be_changed)
{
    char text[8] = { 0 };
    int fd = fd_sealed_memory("boot", STR("payload"));

    EXPECT(fd >= 0);
    EXPECT_INT(read(fd, text, sizeof(text)), 7); /* from the start */
    EXPECT_TEXT(str_from(text), "payload");
    EXPECT_INT(pwrite(fd, "X", 1, 0), -1);
    EXPECT_INT(ftruncate(fd, 0), -1);
    EXPECT_INT(ftruncate(fd, 100), -1);
    EXPECT(mmap(NULL, 7, PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
    EXPECT_INT(fcntl(fd, F_ADD_SEALS, 0), -1);
    EXPECT_INT(fcntl(fd, F_GETFD), FD_CLOEXEC);
}

static int file_of(size_t bytes)
{
    int fd = memfd_create("t", MFD_CLOEXEC);
    for (size_t i = 0; i < bytes; i++) {
        char c = (char)('a' + i % 26);
        CHECK(pwrite(fd, &c, 1, (off_t)i) == 1);
    }
    return fd;
}

TEST(fd_read_all_reads_files_around_its_block_size)
{
    static const size_t sizes[] = { 0, 1, 4094, 4095, 4096, 4097, 20000 };

    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        char *p;
        size_t n;
        int fd = file_of(sizes[i]);
        EXPECT_INT(fd_read_all(fd, sizes[i], &p, &n), 0);
        EXPECT_INT(n, sizes[i]);
        EXPECT_INT(p[n], '\0');
        for (size_t k = 0; k < n; k++)
            EXPECT_INT(p[k], 'a' + (int)(k % 26));
        mem_free(p);
        close(fd);
    }
}

TEST(fd_read_all_keeps_its_limit_and_its_outputs)
{
    char *p = NULL;
    size_t n = 99;

    EXPECT_INT(fd_read_all(file_of(101), 100, &p, &n), -EFBIG);
    EXPECT_INT(fd_read_all(-1, 100, &p, &n), -EBADF);
    EXPECT(p == NULL && n == 99);
}
