/*
 * What a request in a slot says of itself, for status pages and logs. Whoever looks may be another
 * thread or process than the one that fills the slot: everything is copied once, and the copy
 * counts only when the slot still held the same request afterwards.
 */
#include "channel/channel.h"
#include "channel/channel_int.h"

/* Texts in the order of struct channel_request. */
enum { METHOD = 0, TARGET = 1, SCRIPT_FILENAME = 4, REMOTE_ADDR = 10, REQUEST_ID = 12 };
static_assert(offsetof(struct channel_request, target) == TARGET * sizeof(struct str) &&
                  offsetof(struct channel_request, script_filename) ==
                      SCRIPT_FILENAME * sizeof(struct str) &&
                  offsetof(struct channel_request, remote_addr) ==
                      REMOTE_ADDR * sizeof(struct str) &&
                  offsetof(struct channel_request, request_id) == REQUEST_ID * sizeof(struct str),
              "places of the texts");

struct copier {
    const struct channel *ch;
    const char *slot;
    char *out;
    size_t used;
};

/* At most `most` bytes of a text, if the slot has them. */
static struct str copy_text(struct copier *c, struct span span, size_t most)
{
    size_t n = span.bytes < most ? span.bytes : most;
    char *at = c->out + c->used;

    if (span.offset > c->ch->geometry.slot_bytes || n > c->ch->geometry.slot_bytes - span.offset ||
        n > CHANNEL_PEEK_BYTES - c->used)
        return STR_NONE;
    memcpy(at, c->slot + span.offset, n);
    c->used += n;
    return (struct str){ at, n };
}

static struct span header_span(const struct copier *c, uint32_t i)
{
    struct span span;

    memcpy(&span, c->slot + sizeof(struct slot) + i * sizeof(span), sizeof(span));
    copied();
    return span;
}

static struct str find_authorization(struct copier *c, uint32_t n_headers)
{
    uint32_t most =
        (uint32_t)((c->ch->geometry.slot_bytes - sizeof(struct slot)) / (2 * sizeof(struct span)));

    for (uint32_t i = 0; i < n_headers && i < most; i++) {
        size_t before = c->used;
        struct span name = header_span(c, 2 * i);
        if (name.bytes != 13)
            continue;
        bool found = str_eq_nocase(copy_text(c, name, 13), STR("authorization"));
        c->used = before;
        if (found)
            return copy_text(c, header_span(c, 2 * i + 1), 256);
    }
    return STR_NONE;
}

bool channel_request_peek(const struct channel *ch, struct channel_ticket t,
                          struct channel_peek *ret)
{
    struct slot head;

    CHECK_MAGIC(ch, CHANNEL_HANDLE_MAGIC);
    if (t.slot >= ch->geometry.slots || t.seq == 0)
        return false;
    const struct slot *s = slot_at(ch, t.slot);
    /* Acquire: partner is the release in channel_push. */
    uint64_t before = atomic_load_explicit(&s->state, memory_order_acquire);
    if (state_seq(before) != t.seq)
        return false;
    memcpy((char *)&head + offsetof(struct slot, n_headers),
           (const char *)s + offsetof(struct slot, n_headers),
           sizeof(head) - offsetof(struct slot, n_headers));
    copied();
    struct copier c = { .ch = ch, .slot = (const char *)s, .out = ret->text };
    ret->method = copy_text(&c, head.text[METHOD], 32);
    ret->target = copy_text(&c, head.text[TARGET], 1500);
    ret->script_filename = copy_text(&c, head.text[SCRIPT_FILENAME], 1500);
    ret->remote_addr = copy_text(&c, head.text[REMOTE_ADDR], 64);
    ret->request_id = copy_text(&c, head.text[REQUEST_ID], 32);
    ret->authorization = find_authorization(&c, head.n_headers);
    ret->content_length = head.content_length;
    ret->received_ns = head.received_ns;
    /* A slot is filled before its state changes, so a filler that was under way shows only in the
     * sequence number of the next request; one mixture for one page is what a look without a lock
     * may cost. */
    atomic_thread_fence(memory_order_acquire);
    return state_seq(atomic_load_explicit(&s->state, memory_order_relaxed)) == t.seq;
}

uint64_t channel_claimed_ns(const struct channel *ch, struct channel_ticket t)
{
    CHECK_MAGIC(ch, CHANNEL_HANDLE_MAGIC);
    CHECK(t.slot < ch->geometry.slots);
    return atomic_load_explicit(&slot_at(ch, t.slot)->claimed_ns, memory_order_relaxed);
}
