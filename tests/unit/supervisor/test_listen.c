/* Listening sockets: addresses, ports in use, threads, stale and foreign unix sockets. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/mem.h"
#include "supervisor/supervisor_int.h"
#include "test.h"

static char message[1024];

static struct config_listen tcp(const char *host, uint16_t port)
{
    return (struct config_listen){
        .text = str_from(host), .kind = CONFIG_LISTEN_TCP, .host = str_from(host), .port = port
    };
}

static struct config_listen unix_at(const char *path)
{
    return (struct config_listen){ .text = str_from(path),
                                   .kind = CONFIG_LISTEN_UNIX,
                                   .path = str_from(path) };
}

static int open_one(struct config_listen one, uint32_t threads, struct listeners *ret)
{
    struct config_server s = { .listen = &one, .n_listen = 1 };
    message[0] = '\0';
    int r = listeners_open(&s, threads, NULL, ret, message, sizeof(message));
    if (r == 0)
        EXPECT_INT(listeners_listen(ret, message, sizeof(message)), 0);
    return r;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_in a;
    socklen_t n = sizeof(a);

    EXPECT_INT(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    return ntohs(a.sin_port);
}

static char *temporary_path(char *dir)
{
    EXPECT(mkdtemp(dir) != NULL);
    return mem_printf("%s/sock", dir);
}

TEST(port_0_is_chosen_and_reported)
{
    struct listeners l;
    char want[64];

    EXPECT_INT(open_one(tcp("127.0.0.1", 0), 1, &l), 0);
    EXPECT_INT(l.n, 1);
    snprintf(want, sizeof(want), "http://127.0.0.1:%u", port_of(l.v[0].fd));
    EXPECT_STR(str_from(l.v[0].url), str_from(want));
    EXPECT(port_of(l.v[0].fd) != 0);
    EXPECT(fcntl(l.v[0].fd, F_GETFD) & FD_CLOEXEC);
    listeners_close(&l);
}

TEST(threads_share_one_port)
{
    struct listeners l;

    EXPECT_INT(open_one(tcp("127.0.0.1", 0), 3, &l), 0);
    EXPECT_INT(l.n, 3);
    EXPECT_INT(port_of(l.v[1].fd), port_of(l.v[0].fd));
    EXPECT_INT(l.v[2].thread, 2);
    char *urls = listeners_urls(&l);
    EXPECT_STR(str_from(urls), str_from(l.v[0].url)); /* named once */
    mem_free(urls);
    listeners_close(&l);
}

TEST(port_in_use_is_refused_also_with_threads)
{
    struct listeners first, second;

    EXPECT_INT(open_one(tcp("127.0.0.1", 0), 2, &first), 0);
    uint16_t port = port_of(first.v[0].fd);
    EXPECT_INT(open_one(tcp("127.0.0.1", port), 2, &second), -EADDRINUSE);
    EXPECT(strstr(message, "another program listens there") != NULL);
    EXPECT_INT(second.n, 0);
    EXPECT_INT(open_one(tcp("127.0.0.1", port), 1, &second), -EADDRINUSE);
    listeners_close(&first);
    EXPECT_INT(open_one(tcp("127.0.0.1", port), 2, &second), 0);
    listeners_close(&second);
}

TEST(ports_stay_closed_until_the_gateway_accepts)
{
    struct config_listen one = tcp("127.0.0.1", 0);
    struct config_server s = { .listen = &one, .n_listen = 1 };
    struct listeners l;
    struct sockaddr_in a;
    socklen_t n = sizeof(a);
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    EXPECT_INT(listeners_open(&s, 1, NULL, &l, message, sizeof(message)), 0);
    EXPECT_INT(getsockname(l.v[0].fd, (struct sockaddr *)&a, &n), 0);
    EXPECT(connect(client, (struct sockaddr *)&a, n) < 0);
    EXPECT_INT(errno, ECONNREFUSED);
    EXPECT_INT(listeners_listen(&l, message, sizeof(message)), 0);
    EXPECT_INT(connect(client, (struct sockaddr *)&a, n), 0);
    close(client);
    listeners_close(&l);
}

TEST(more_sockets_than_the_gateway_takes_are_refused)
{
    struct config_listen many[20];
    struct config_server s = { .listen = many, .n_listen = ARRAY_LENGTH(many) };
    struct listeners l;

    for (size_t i = 0; i < ARRAY_LENGTH(many); i++)
        many[i] = tcp("127.0.0.1", 0);
    EXPECT_INT(listeners_open(&s, 13, NULL, &l, message, sizeof(message)), -E2BIG);
    EXPECT(strstr(message, "at most 256") != NULL);
    EXPECT_INT(l.n, 0);
}

TEST(ipv6_and_any_do_not_collide)
{
    struct listeners l;
    int probe = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

    EXPECT_INT(open_one(tcp("*", 0), 1, &l), 0);
    EXPECT_INT(l.n, probe >= 0 ? 2 : 1);
    EXPECT_INT(port_of(l.v[0].fd), port_of(l.v[l.n - 1].fd));
    listeners_close(&l);
    if (probe >= 0) {
        EXPECT_INT(open_one(tcp("::1", 0), 1, &l), 0);
        EXPECT(strncmp(l.v[0].url, "http://[::1]:", 13) == 0);
        listeners_close(&l);
        close(probe);
    }
}

TEST(foreign_address_and_unknown_name_say_so)
{
    struct listeners l;

    EXPECT_INT(open_one(tcp("192.0.2.1", 0), 1, &l), -EADDRNOTAVAIL);
    EXPECT(strstr(message, "no interface") != NULL);
    EXPECT_INT(open_one(tcp("no.such.host.invalid", 0), 1, &l), -EINVAL);
    EXPECT(strstr(message, "no.such.host.invalid") != NULL);
}

TEST(unix_socket_is_open_to_all_and_removed_at_the_end)
{
    char dir[] = "/tmp/sapid-unit-XXXXXX", *path = temporary_path(dir);
    struct listeners l;
    struct stat st;

    EXPECT_INT(open_one(unix_at(path), 2, &l), 0);
    EXPECT_INT(l.n, 2);
    EXPECT_INT(lstat(path, &st), 0);
    EXPECT_INT(st.st_mode & 07777, 0666);
    listeners_close(&l);
    EXPECT(lstat(path, &st) < 0);
    EXPECT_INT(rmdir(dir), 0);
    mem_free(path);
}

static void make_stale(const char *path)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    memcpy(a.sun_path, path, strlen(path) + 1);
    EXPECT_INT(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    close(fd);
}

TEST(stale_unix_socket_is_taken_over)
{
    char dir[] = "/tmp/sapid-unit-XXXXXX", *path = temporary_path(dir);
    struct listeners l;

    make_stale(path);
    EXPECT_INT(open_one(unix_at(path), 1, &l), 0);
    listeners_close(&l);
    EXPECT_INT(rmdir(dir), 0);
    mem_free(path);
}

TEST(living_unix_socket_and_plain_file_are_left_alone)
{
    char dir[] = "/tmp/sapid-unit-XXXXXX", *path = temporary_path(dir);
    struct listeners first, second;

    EXPECT_INT(open_one(unix_at(path), 1, &first), 0);
    EXPECT_INT(open_one(unix_at(path), 1, &second), -EADDRINUSE);
    EXPECT(strstr(message, "another program listens there") != NULL);
    EXPECT_INT(access(path, F_OK), 0);
    listeners_close(&first);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    EXPECT(fd >= 0);
    close(fd);
    EXPECT_INT(open_one(unix_at(path), 1, &second), -EEXIST);
    EXPECT_INT(unlink(path), 0);
    EXPECT_INT(rmdir(dir), 0);
    mem_free(path);
}

TEST(socket_of_a_successor_is_not_removed)
{
    char dir[] = "/tmp/sapid-unit-XXXXXX", *path = temporary_path(dir);
    struct listeners l;

    EXPECT_INT(open_one(unix_at(path), 1, &l), 0);
    EXPECT_INT(unlink(path), 0);
    make_stale(path); /* another inode under the same name */
    listeners_close(&l);
    EXPECT_INT(access(path, F_OK), 0);
    EXPECT_INT(unlink(path), 0);
    EXPECT_INT(rmdir(dir), 0);
    mem_free(path);
}

TEST(path_too_long_for_a_socket_is_refused)
{
    struct listeners l;
    char path[200];

    memset(path, 'x', sizeof(path) - 1);
    path[0] = '/';
    path[sizeof(path) - 1] = '\0';
    EXPECT_INT(open_one(unix_at(path), 1, &l), -EINVAL);
    EXPECT(strstr(message, "107") != NULL);
}

/* --- sockets that are open already ------------------------------------------------------------ */

static int open_from(struct config_listen one, uint32_t threads, const struct listeners *given,
                     struct listeners *ret)
{
    struct config_server s = { .listen = &one, .n_listen = 1 };

    return listeners_open(&s, threads, given, ret, message, sizeof(message));
}

static bool same_socket(int a, int b)
{
    struct stat x, y;

    return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_ino == y.st_ino;
}

static uint32_t threads_served(const struct listeners *l)
{
    uint32_t seen = 0, n = 0;

    for (uint32_t i = 0; i < l->n; i++)
        seen |= 1U << l->v[i].thread;
    for (; seen; seen >>= 1)
        n += seen & 1;
    return n;
}

TEST(open_sockets_are_used_again_whatever_the_threads)
{
    struct listeners one, three, two;

    EXPECT_INT(open_one(tcp("127.0.0.1", 0), 1, &one), 0);
    EXPECT_INT(open_from(tcp("127.0.0.1", 0), 3, &one, &three), 0);
    EXPECT_INT(three.n, 3);
    EXPECT_INT(threads_served(&three), 3);
    for (uint32_t i = 0; i < 3; i++)
        EXPECT(same_socket(three.v[i].fd, one.v[0].fd));
    EXPECT_STR(str_from(three.v[2].url), str_from(one.v[0].url));
    listeners_close(&one);
    EXPECT_INT(open_from(tcp("127.0.0.1", 0), 2, &three, &two), 0);
    EXPECT_INT(threads_served(&two), 2);
    listeners_close(&three);
    EXPECT_INT(listeners_listen(&two, message, sizeof(message)), 0);
    listeners_close(&two);
}

TEST(fewer_threads_keep_every_socket_and_its_backlog)
{
    struct listeners three, one;

    EXPECT_INT(open_one(tcp("127.0.0.1", 0), 3, &three), 0);
    EXPECT_INT(open_from(tcp("127.0.0.1", 0), 1, &three, &one), 0);
    EXPECT_INT(one.n, 3);
    EXPECT_INT(threads_served(&one), 1);
    for (uint32_t i = 0; i < 3; i++)
        EXPECT(same_socket(one.v[i].fd, three.v[i].fd));
    listeners_close(&three);
    listeners_close(&one);
}

TEST(another_address_is_opened_and_not_taken_from_the_open_ones)
{
    struct listeners first, other;

    EXPECT_INT(open_one(tcp("127.0.0.1", 0), 1, &first), 0);
    struct config_listen elsewhere = tcp("127.0.0.2", 0);
    EXPECT_INT(open_from(elsewhere, 1, &first, &other), 0);
    EXPECT(!same_socket(first.v[0].fd, other.v[0].fd));
    listeners_close(&other);
    struct config_listen rewritten = tcp("127.0.0.1", port_of(first.v[0].fd));
    rewritten.text = STR("the same address in other words");
    EXPECT_INT(open_from(rewritten, 1, &first, &other), 0);
    EXPECT(same_socket(first.v[0].fd, other.v[0].fd));
    listeners_close(&other);
    listeners_close(&first);
}

TEST(unix_socket_belongs_to_one_at_a_time)
{
    char dir[] = "/tmp/sapid-unit-XXXXXX";
    char *path = temporary_path(dir);
    struct listeners old, new;
    struct stat st;

    EXPECT_INT(open_one(unix_at(path), 2, &old), 0);
    EXPECT_INT(open_from(unix_at(path), 1, &old, &new), 0);
    EXPECT(same_socket(old.v[0].fd, new.v[0].fd));
    listeners_close(&new); /* a reload that failed */
    EXPECT_INT(lstat(path, &st), 0);
    EXPECT_INT(open_from(unix_at(path), 1, &old, &new), 0);
    listeners_own(&new, &old);
    listeners_close(&old); /* one that did not */
    EXPECT_INT(lstat(path, &st), 0);
    listeners_close(&new);
    EXPECT(lstat(path, &st) < 0);
    EXPECT_INT(rmdir(dir), 0);
    mem_free(path);
}

TEST(sockets_of_a_service_manager_are_adopted_and_never_removed)
{
    char dir[] = "/tmp/sapid-unit-XXXXXX";
    char *path = temporary_path(dir);
    struct listeners theirs, given = { NULL, 0 }, ours;
    struct stat st;
    int datagram = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    EXPECT_INT(open_one(unix_at(path), 1, &theirs), 0);
    EXPECT_INT(listeners_adopt(&given, dup(theirs.v[0].fd), "", true), 0);
    EXPECT_INT(listeners_adopt(&given, datagram, "", true), -EPROTOTYPE);
    EXPECT_INT(listeners_adopt(&given, -1, "", true), -EBADF);
    close(datagram);
    EXPECT_INT(given.n, 1);
    EXPECT_INT(open_from(unix_at(path), 1, &given, &ours), 0);
    EXPECT(same_socket(theirs.v[0].fd, ours.v[0].fd));
    listeners_own(&ours, NULL);
    listeners_close(&given);
    listeners_close(&ours);
    EXPECT_INT(lstat(path, &st), 0);
    listeners_close(&theirs);
    EXPECT_INT(rmdir(dir), 0);
    mem_free(path);
}
