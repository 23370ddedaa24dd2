/* control: messages between processes with their descriptors, the boot text, dying with the parent.
 */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "channel/control.h"

enum { HEAD_BYTES = offsetof(struct control_message, text) };

TEST(a_message_arrives_with_text_and_descriptors)
{
    struct control_message m, got;
    int pair[2], fds[20], got_fds[20];
    size_t n = 0;

    EXPECT_INT(fd_seqpacket_pair(pair), 0);
    control_message_init(&m, CONTROL_WORKER_DEAD);
    m.pool = 1;
    m.generation = 2;
    m.worker = 3;
    m.incarnation = 4;
    m.pid = -5;
    m.status = 6;
    m.requests = 7;
    m.ticket = (struct channel_ticket){ 8, 9 };
    control_message_set_text(&m, STR("why"));
    /* A channel, a socket, and an eventfd for each of 16 threads. */
    for (int i = 0; i < 18; i++)
        EXPECT((fds[i] = dup(pair[0])) >= 0);
    EXPECT_INT(control_send(pair[0], &m, fds, 18), 0);
    EXPECT_INT(control_receive(pair[1], &got, got_fds, 20, &n), 1);
    EXPECT_INT(n, 18);
    EXPECT(fcntl(got_fds[17], F_GETFD) & FD_CLOEXEC);
    EXPECT_INT(got.type, CONTROL_WORKER_DEAD);
    EXPECT_INT(memcmp(&got, &m, HEAD_BYTES), 0);
    EXPECT_TEXT(control_message_text(&got), "why");
}

TEST(text_is_cut_at_the_maximum)
{
    static char much[CONTROL_TEXT_MAX + 10];
    struct control_message m, got;
    int pair[2];

    memset(much, 'x', sizeof(much));
    EXPECT_INT(fd_seqpacket_pair(pair), 0);
    control_message_init(&m, CONTROL_FAILED);
    control_message_set_text(&m, (struct str){ much, sizeof(much) });
    EXPECT_INT(control_message_text(&m).n, CONTROL_TEXT_MAX);
    EXPECT_INT(control_send(pair[0], &m, NULL, 0), 0);
    EXPECT_INT(control_receive(pair[1], &got, NULL, 0, NULL), 1);
    EXPECT_STR(control_message_text(&got), control_message_text(&m));
    control_message_set_text(&m, STR_NONE);
    EXPECT_INT(control_message_text(&m).n, 0);
}

static int receive_raw(const void *p, size_t n)
{
    struct control_message got;
    int pair[2], fd;
    size_t n_fds = 77;

    EXPECT_INT(fd_seqpacket_pair(pair), 0);
    EXPECT_INT(fd_send(pair[0], p, n, &pair[0], 1), 0);
    int r = control_receive(pair[1], &got, &fd, 1, &n_fds);
    if (r < 0) /* the descriptor that came with nonsense was closed: the stream has ended */
        EXPECT_INT(n_fds, 77);
    close(pair[0]);
    if (r < 0)
        EXPECT_INT(control_receive(pair[1], &got, &fd, 1, &n_fds), 0);
    close(pair[1]);
    return r;
}

TEST(nonsense_is_refused_and_its_descriptors_closed)
{
    struct {
        struct control_message m;
        char more[16];
    } big = { 0 };
    struct control_message *m = &big.m;

    control_message_init(m, CONTROL_READY);
    EXPECT_INT(receive_raw(m, HEAD_BYTES), 1);
    EXPECT_INT(receive_raw(m, HEAD_BYTES - 1), -EPROTO);
    EXPECT_INT(receive_raw(m, HEAD_BYTES + 1), -EPROTO);
    EXPECT_INT(receive_raw(m, 1), -EPROTO);
    EXPECT_INT(receive_raw(&big, sizeof(big)), -EPROTO);
    m->type = 0;
    EXPECT_INT(receive_raw(m, HEAD_BYTES), -EPROTO);
    m->type = CONTROL_LAST + 1;
    EXPECT_INT(receive_raw(m, HEAD_BYTES), -EPROTO);
    m->type = CONTROL_READY;
    m->text_bytes = UINT32_MAX;
    EXPECT_INT(receive_raw(m, HEAD_BYTES), -EPROTO);
    m->text_bytes = CONTROL_TEXT_MAX + 1;
    EXPECT_INT(receive_raw(m, sizeof(*m)), -EPROTO);
    m->text_bytes = 5;
    EXPECT_INT(receive_raw(m, HEAD_BYTES + 5), 1);
}

TEST(a_full_and_a_closed_socket_say_so)
{
    struct control_message m;
    int pair[2], r;

    EXPECT_INT(fd_seqpacket_pair(pair), 0);
    EXPECT_INT(fcntl(pair[0], F_SETFL, O_NONBLOCK), 0);
    control_message_init(&m, CONTROL_DRAIN);
    while ((r = control_send(pair[0], &m, NULL, 0)) == 0)
        ;
    EXPECT_INT(r, -EAGAIN);
    EXPECT_INT(control_receive(pair[0], &m, NULL, 0, NULL), -EAGAIN);
    close(pair[1]);
    EXPECT_INT(control_send(pair[0], &m, NULL, 0), -ECONNRESET); /* with messages unread */
    EXPECT_INT(control_send(pair[0], &m, NULL, 0), -EPIPE);
}

TEST(the_boot_text_round_trip)
{
    char *overrides[] = { (char *)"server.listen=[\"127.0.0.1:0\"]",
                          (char *)"php.env={ A = \"b=c\" }", NULL };
    struct control_boot b = { .pool = 3,
                              .generation = 7,
                              .parent_pid = 4711,
                              .base_dir = (char *)"/srv",
                              .config_name = (char *)"/etc/sapid.toml",
                              .config_text = (char *)"a = \"=\"\0override=x\n",
                              .config_text_bytes = 19,
                              .overrides = overrides,
                              .document_root = (char *)"/srv/www" };
    struct control_boot got;
    int fd;

    EXPECT_INT(control_boot_pack(&b, &fd), 0);
    EXPECT_INT(write(fd, "x", 1), -1); /* sealed */
    EXPECT_INT(control_boot_unpack(fd, &got), 0);
    EXPECT_INT(got.pool, 3);
    EXPECT_INT(got.generation, 7);
    EXPECT_INT(got.parent_pid, 4711);
    EXPECT_TEXT(str_from(got.base_dir), "/srv");
    EXPECT_TEXT(str_from(got.config_name), "/etc/sapid.toml");
    EXPECT_TEXT(str_from(got.document_root), "/srv/www");
    EXPECT_STR(((struct str){ got.config_text, got.config_text_bytes }),
               ((struct str){ b.config_text, 19 }));
    EXPECT_STR(str_from(got.overrides[0]), str_from(overrides[0]));
    EXPECT_STR(str_from(got.overrides[1]), str_from(overrides[1]));
    EXPECT(got.overrides[2] == NULL);
    control_boot_fini(&got);
    control_boot_fini(&got);
    close(fd);

    b = (struct control_boot){ .parent_pid = 1 }; /* as little as possible */
    EXPECT_INT(control_boot_pack(&b, &fd), 0);
    EXPECT_INT(control_boot_unpack(fd, &got), 0);
    EXPECT(got.config_text != NULL && got.overrides[0] == NULL && !got.document_root);
    control_boot_fini(&got);
    close(fd);
}

TEST(the_boot_text_of_an_image)
{
    struct control_boot b = { .parent_pid = 1,
                              .image_script = (char *)"/srv/www/index.php",
                              .image_script_name = (char *)"/index.php",
                              .image_host = (char *)"",
                              .image_address = (char *)"10.0.0.1",
                              .image_port = 8443,
                              .image_https = true,
                              .image_of_generation = 9 };
    struct control_boot got;
    int fd;

    EXPECT_INT(control_boot_pack(&b, &fd), 0);
    EXPECT_INT(control_boot_unpack(fd, &got), 0);
    EXPECT_TEXT(str_from(got.image_script), "/srv/www/index.php");
    EXPECT_TEXT(str_from(got.image_script_name), "/index.php");
    EXPECT_TEXT(str_from(got.image_host), "");
    EXPECT_TEXT(str_from(got.image_address), "10.0.0.1");
    EXPECT_INT(got.image_port, 8443);
    EXPECT(got.image_https);
    EXPECT_INT(got.image_of_generation, 9);
    control_boot_fini(&got);
    close(fd);
}

TEST(a_wanted_image_round_trip)
{
    struct control_image image = {
        STR("/srv/www/a b.php"), STR("/a b.php"), STR("example.com:81"), true, 8443, STR("::1")
    };
    static char much[CONTROL_TEXT_MAX];
    struct control_message m;
    struct control_image got;

    control_message_init(&m, CONTROL_IMAGE_WANTED);
    EXPECT(control_image_pack(&m, &image));
    EXPECT(control_image_unpack(&m, &got));
    EXPECT_STR(got.script, image.script);
    EXPECT_STR(got.script_name, image.script_name);
    EXPECT_STR(got.host, image.host);
    EXPECT(got.https);
    EXPECT_INT(got.port, 8443);
    EXPECT_STR(got.address, image.address);

    memset(much, 'x', sizeof(much));
    image.script = (struct str){ much, CONTROL_TEXT_MAX - 39 };
    EXPECT(!control_image_pack(&m, &image));
    image.script = STR("/a\0b");
    EXPECT(!control_image_pack(&m, &image));

    control_message_set_text(&m, STR("/a\0/a\0h\0http\0"
                                     "80\0\0"));
    EXPECT(control_image_unpack(&m, &got) && !got.https);
    control_message_set_text(&m, STR("/a\0/a\0h\0ftp\0"
                                     "80\0\0"));
    EXPECT(!control_image_unpack(&m, &got));
    control_message_set_text(&m, STR("/a\0/a\0h\0http"));
    EXPECT(!control_image_unpack(&m, &got));
    control_message_set_text(&m, STR("/a\0/a\0h\0http\0x\0"));
    EXPECT(!control_image_unpack(&m, &got));
    control_message_set_text(&m, STR(""));
    EXPECT(!control_image_unpack(&m, &got));
}

static int unpack(struct str text)
{
    struct control_boot b;
    int fd = fd_sealed_memory("boot", text);

    EXPECT(fd >= 0);
    int r = control_boot_unpack(fd, &b);
    if (r == 0)
        control_boot_fini(&b);
    close(fd);
    return r;
}

TEST(a_spoilt_boot_text_is_refused)
{
    EXPECT_INT(unpack(STR("config_text=\0pool=1\0")), 0);
    EXPECT_INT(unpack(STR("")), -EPROTO);
    EXPECT_INT(unpack(STR("pool=1\0")), -EPROTO); /* no configuration */
    EXPECT_INT(unpack(STR("config_text=\0pool=1")), -EPROTO);
    EXPECT_INT(unpack(STR("config_text=\0pool=-1\0")), -EPROTO);
    EXPECT_INT(unpack(STR("config_text=\0pool=99999999999\0")), -EPROTO);
    EXPECT_INT(unpack(STR("config_text=\0other=1\0")), -EPROTO);
    EXPECT_INT(unpack(STR("config_text=\0noequals\0")), -EPROTO);
    EXPECT_INT(unpack(STR("config_text=\0config_text=\0")), -EPROTO);
    EXPECT_INT(unpack(STR("config_text=\0image_script=/a\0")), -EPROTO); /* and its name? */
    EXPECT_INT(unpack(STR("config_text_bytes=5\0config_text=abc\0")), -EPROTO);
    EXPECT_INT(unpack(STR("config_text_bytes=2\0config_text=abc\0")), -EPROTO);
}

TEST(a_child_dies_with_its_parent)
{
    int says[2];
    char c;

    EXPECT_INT(pipe(says), 0);
    pid_t parent = fork();
    if (parent == 0) {
        pid_t me = getpid();
        if (fork() == 0) {
            control_die_with_parent(me, SIGKILL);
            EXPECT_INT(write(says[1], "x", 1), 1);
            for (;;)
                pause();
        }
        close(says[1]);
        EXPECT_INT(read(says[0], &c, 1), 1);
        _exit(0);
    }
    close(says[1]);
    EXPECT_INT(waitpid(parent, NULL, 0), parent);
    EXPECT_INT(read(says[0], &c, 1), 0); /* the other end closes when the child is gone */

    pid_t late = fork();
    if (late == 0) {
        control_die_with_parent(1, SIGKILL); /* not the parent any more */
        _exit(1);
    }
    int status;
    EXPECT_INT(waitpid(late, &status, 0), late);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
