/*
 * A sampling profiler of PHP code: for some seconds the pool process reads the PHP stacks of all
 * workers that are at a request, some thousand times a second, and counts equal ones. The workers
 * are not stopped and do not notice (stack.h); a sample is a moment of a request's time, whether it
 * computes or waits. What comes out is text, "pool;outermost;...;innermost 12" a line, written into
 * a descriptor that came with the question.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "php/pool_int.h"

enum {
    SLOTS = 1 << 15, /* of the table; half of them may be used */
    TEXTS_MAX = 8 << 20,
    LINE_MAX_BYTES = 16 << 10,
    RATE_MAX = 10000,
    DURATION_MAX_MS = 600000,
};

struct counted {
    uint32_t at, bytes; /* in texts; bytes == 0: the slot is free */
    uint64_t count;
};

struct profile {
    int timer, out;
    uint64_t until_ns;
    uint64_t samples, unread, dropped; /* unread: a busy worker whose memory could not be read */
    size_t used;
    struct buf texts;
    struct counted slots[SLOTS];
    struct php_stack stack;
    char line[LINE_MAX_BYTES];
};

int profile_timer(const struct pool *p)
{
    return p->profile ? p->profile->timer : -1;
}

void profile_leave(struct pool *p)
{
    if (!p->profile)
        return;
    fd_close(&p->profile->timer);
    fd_close(&p->profile->out);
    buf_fini(&p->profile->texts);
    mem_free(p->profile);
    p->profile = NULL;
}

static void end(struct pool *p, const char *outcome)
{
    profile_leave(p);
    record_send(p, CONTROL_RECORD_PROFILE, str_from(outcome));
}

void profile_begin(struct pool *p, const struct control_message *m, int *fd)
{
    uint64_t ms = m->requests, rate = m->worker;

    if (p->profile || !p->layout || *fd < 0 || ms == 0 || ms > DURATION_MAX_MS || rate == 0 ||
        rate > RATE_MAX) {
        record_send(p, CONTROL_RECORD_PROFILE, STR("not possible here"));
        return;
    }
    struct profile *f = mem_zalloc(sizeof(*f));
    p->profile = f;
    f->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    f->out = *fd;
    *fd = -1;
    buf_init(&f->texts, TEXTS_MAX);
    f->until_ns = clock_monotonic_ns() + ms * NS_PER_MS;
    long gap = (long)(NS_PER_S / rate);
    struct timespec every = { gap / (long)NS_PER_S, gap % (long)NS_PER_S };
    if (f->timer < 0 ||
        timerfd_settime(f->timer, 0, &(struct itimerspec){ every, every }, NULL) < 0)
        end(p, strerror(errno));
}

/* --- a sample --------------------------------------------------------------------------------- */

/* A semicolon separates frames, so names have none. */
static void put(struct profile *f, size_t *n, const char *text)
{
    for (; *text && *n < sizeof(f->line); text++) {
        unsigned char c = (unsigned char)*text;
        f->line[(*n)++] = c == ';' ? ':' : c < 0x20 || c >= 0x7f ? '?' : *text;
    }
}

/* Included files are told apart by their names. */
static void put_frame(struct profile *f, size_t *n, const struct php_frame *frame)
{
    char name[2 * PHP_STACK_NAME + 4];

    if (*n < sizeof(f->line))
        f->line[(*n)++] = ';';
    if (frame->is_code && !frame->function && frame->file) {
        put(f, n, frame->is_top ? "{main} " : "include ");
        put(f, n, php_stack_text(&f->stack, frame->file));
        return;
    }
    php_frame_name(&f->stack, frame, name, sizeof(name));
    put(f, n, name);
}

static void put_special(struct profile *f, size_t *n, const char *name)
{
    if (*n < sizeof(f->line))
        f->line[(*n)++] = ';';
    put(f, n, name);
}

static struct str make_line(struct pool *p, struct profile *f)
{
    const struct php_stack *s = &f->stack;
    size_t n = 0;

    for (size_t i = 0; i < p->conf->name.n && n < sizeof(f->line); i++)
        f->line[n++] = p->conf->name.p[i];
    if (s->n_frames == 0)
        put_special(f, &n, "[engine]"); /* start and end of a request, compiling, sending */
    if (s->is_cut)
        put_special(f, &n, "[deeper]");
    for (uint32_t i = s->n_frames; i > 0; i--)
        put_frame(f, &n, &s->frames[i - 1]);
    return (struct str){ f->line, n };
}

static uint64_t hash_of(struct str s)
{
    uint64_t h = UINT64_C(14695981039346656037);

    for (size_t i = 0; i < s.n; i++)
        h = (h ^ (unsigned char)s.p[i]) * UINT64_C(1099511628211);
    return h ^ h >> 32;
}

static void count(struct profile *f, struct str line)
{
    uint64_t i = hash_of(line) % SLOTS;
    const char *texts = buf_view(&f->texts).p;

    for (; f->slots[i].bytes; i = (i + 1) % SLOTS)
        if (f->slots[i].bytes == line.n && memcmp(texts + f->slots[i].at, line.p, line.n) == 0) {
            f->slots[i].count++;
            return;
        }
    uint32_t at = (uint32_t)buf_length(&f->texts);
    if (f->used >= SLOTS / 2 || buf_append(&f->texts, line.p, line.n) < 0) {
        f->dropped++;
        return;
    }
    f->used++;
    f->slots[i] = (struct counted){ at, (uint32_t)line.n, 1 };
}

static void sample(struct pool *p, struct profile *f)
{
    struct channel_worker_info info;

    for (uint32_t i = 0; i < p->n_seats && p->channel; i++) {
        struct seat *seat = &p->seats[i];
        if (!seat->pid)
            continue;
        channel_worker_look(p->channel, i, &info);
        if (info.incarnation != seat->incarnation || info.state != CHANNEL_WORKER_BUSY)
            continue;
        f->samples++;
        if (worker_memory_stack(&seat->memory, p->layout, PHP_STACK_FRAMES, &f->stack))
            count(f, make_line(p, f));
        else
            f->unread++;
    }
}

/* --- the end ---------------------------------------------------------------------------------- */

static void write_out(struct pool *p, struct profile *f)
{
    struct buf text;
    char outcome[160];

    buf_init(&text, 2 * TEXTS_MAX);
    for (size_t i = 0; i < SLOTS; i++)
        if (f->slots[i].bytes)
            (void)!buf_printf(&text, "%.*s %" PRIu64 "\n", (int)f->slots[i].bytes,
                              buf_view(&f->texts).p + f->slots[i].at, f->slots[i].count);
    /* One write: the other pools write into the same file, each at the end of it. */
    ssize_t n = write(f->out, buf_view(&text).p, buf_length(&text));
    snprintf(outcome, sizeof(outcome),
             "%" PRIu64 " samples, %" PRIu64 " unreadable, %" PRIu64 " dropped%s", f->samples,
             f->unread, f->dropped, n == (ssize_t)buf_length(&text) ? "" : ", not all written");
    buf_fini(&text);
    end(p, outcome);
}

void profile_tick(struct pool *p)
{
    uint64_t ticks;

    /* What was missed is not made up for: samples have to be at different times. */
    if (!p->profile || read(p->profile->timer, &ticks, sizeof(ticks)) != (ssize_t)sizeof(ticks))
        return;
    sample(p, p->profile);
    if (clock_monotonic_ns() >= p->profile->until_ns)
        write_out(p, p->profile);
}
