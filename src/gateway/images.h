/*
 * images: requests of entry scripts that have an image (docs/snapshot-images.md). An image pool is
 * a generation like any other; what differs is that no route leads to it: a request that goes to a
 * classic pool is given to the image of its script instead, if there is one of this generation. The
 * image's worker may pass it on, because the request does not look like those that the image is
 * for; then it runs in classic mode, as it would have without.
 */
#ifndef SAPID_GATEWAY_IMAGES_H
#define SAPID_GATEWAY_IMAGES_H

#include <stdatomic.h>

#include "gateway/gateway_int.h"

/* Of a pool_link that is one. */
struct link_image {
    char *script, *script_name;
    uint32_t of_pool, of_generation;
    _Atomic uint64_t used_ns; /* monotonic: its last request */
    _Atomic uint64_t served, passed_on;
    _Atomic uint64_t judged_served, judged_passed_on; /* what they were when it was judged last */
    _Atomic uint64_t unfit_ns;                        /* when the supervisor was told so */
    bool told_unfit;                                  /* in the log; main thread */
};

/* A script that could not be frozen. */
struct image_refused {
    char script[256], why[1024]; /* script: "": free */
    uint64_t at_ns, until_ns;    /* CLOCK_REALTIME: the last time; not tried again before */
    uint32_t times;
};
enum { IMAGES_REFUSED_SHOWN = 8 };

/* Of a classic pool, over all generations; any thread. */
struct image_figures {
    _Atomic uint64_t served;    /* requests answered by images */
    _Atomic uint64_t passed_on; /* that an image did not take */
    _Atomic uint64_t refused;   /* images that could not be made */
    /* Main thread: those of the present generation that still have none; NULL: none so far. */
    struct image_refused *refusals;
    uint32_t last_refusal; /* its index */
};

/* Main thread: what the boot text of the generation says of an image. */
void images_open_link(struct pool_link *link);
void images_close_link(struct pool_link *link);
/* After `active` of a seat has changed in this thread. */
void images_count(struct gateway_thread *t, const struct pool_link *link);
/* An image of a generation that does not take the requests of its pool yet. */
bool images_is_early(const struct gateway_thread *t, const struct pool_link *link);
/* The image for a request whose script that is and that would go to `b`; else `b`. Where the
 * configuration wants the script to have an image and it has none, asks for it. The head is in
 * thread->request. */
struct backend *images_choose(struct exchange *x, struct backend *b, struct str script);
/* The image did not take it. */
void images_passed_on(struct exchange *x, struct pool_link *image);
/* Main thread: the command behind it. */
void images_on_asked(struct gateway_thread *t, struct command *c);
/* Main thread: IMAGE_WANTED of a worker of that generation; IMAGE_REFUSED of the supervisor. */
void images_wanted(struct pool_link *link, const struct control_message *m);
void images_refused(struct gateway *g, const struct control_message *m);
/* Main thread: it serves from now on; what was refused before is over. */
void images_forgive(struct gateway *g, const struct pool_link *link);
/* The pool whose requests it takes: of an image, that of its script. */
static inline uint32_t images_pool(const struct pool_link *link)
{
    return link->image ? link->image->of_pool : link->pool;
}
/* Calls `see` with each image of that pool that takes requests. */
void images_look(const struct gateway_thread *t, uint32_t pool,
                 void (*see)(void *ctx, const struct pool_link *image), void *ctx);

#endif
