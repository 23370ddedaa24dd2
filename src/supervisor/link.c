/*
 * One channel between one pool process and one gateway, from its creation until both ends have been
 * given away. A new gateway gets new links: it must not meet what its predecessor left half
 * written.
 */
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fd.h"
#include "supervisor/supervisor_int.h"

void link_init(struct link *l)
{
    l->channel = l->pool_end = l->gateway_end = -1;
    for (size_t i = 0; i < ARRAY_LENGTH(l->eventfds); i++)
        l->eventfds[i] = -1;
    l->threads = 0;
}

int link_open(struct link *l, const struct channel_geometry *g)
{
    int pair[2];
    int r;

    CHECK(l->channel < 0 && g->threads >= 1 && g->threads <= CHANNEL_THREADS_MAX);
    r = channel_create(g, &l->channel);
    if (r < 0)
        return r;
    r = fd_seqpacket_pair(pair);
    if (r < 0)
        goto fail;
    l->pool_end = pair[0];
    l->gateway_end = pair[1];
    for (uint32_t i = 0; i < g->threads; i++) {
        l->eventfds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (l->eventfds[i] < 0) {
            r = -errno;
            goto fail;
        }
    }
    l->threads = g->threads;
    return 0;
fail:
    link_close(l);
    return r;
}

void link_close(struct link *l)
{
    fd_close(&l->channel);
    fd_close(&l->pool_end);
    fd_close(&l->gateway_end);
    for (size_t i = 0; i < ARRAY_LENGTH(l->eventfds); i++)
        fd_close(&l->eventfds[i]);
    l->threads = 0;
}
