/*
 * control: messages between processes and the boot text, as a process with a memory error might
 * send them. What is accepted must survive being written and read again.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "channel/control.h"

static void message(const uint8_t *data, size_t size)
{
    struct control_message m, again;
    int pair[2], fds[4];
    size_t n_fds = 0;

    CHECK(fd_seqpacket_pair(pair) == 0);
    if (size && send(pair[0], data, size, MSG_NOSIGNAL) == (ssize_t)size) {
        int r = control_receive(pair[1], &m, fds, 4, &n_fds);
        CHECK(r == 1 || r == -EPROTO);
        CHECK(n_fds == 0);
        if (r == 1) {
            struct str text = control_message_text(&m);
            CHECK(control_send(pair[1], &m, NULL, 0) == 0);
            CHECK(control_receive(pair[0], &again, fds, 4, &n_fds) == 1);
            CHECK(str_eq(control_message_text(&again), text));
        }
    }
    close(pair[0]);
    close(pair[1]);
}

static void boot(const uint8_t *data, size_t size)
{
    struct control_boot b, again;
    int fd = fd_sealed_memory("fuzz", (struct str){ (const char *)data, size }), packed;

    CHECK(fd >= 0);
    if (control_boot_unpack(fd, &b) == 0) {
        CHECK(control_boot_pack(&b, &packed) == 0);
        CHECK(control_boot_unpack(packed, &again) == 0);
        CHECK(again.config_text_bytes == b.config_text_bytes &&
              memcmp(again.config_text, b.config_text, b.config_text_bytes) == 0);
        control_boot_fini(&again);
        control_boot_fini(&b);
        close(packed);
    }
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] & 1)
        message(data + 1, size - 1);
    else
        boot(data + 1, size - 1);
    return 0;
}
