/* Histogram: see hist.h. Slot 256 * shift + (value >> shift), with the shift that leaves 9 bits. */
#include "base/hist.h"

#include <math.h>
#include <string.h>

#include "base/check.h"

static unsigned slot_of(uint64_t value)
{
    if (value >> HIST_VALUE_BITS)
        return HIST_SLOTS - 1;
    /* Below 512 every value has a slot of its own. */
    unsigned bits = 64 - (unsigned)__builtin_clzll(value | 1);
    unsigned shift = bits > HIST_SLOT_BITS + 1 ? bits - HIST_SLOT_BITS - 1 : 0;
    return (shift << HIST_SLOT_BITS) + (unsigned)(value >> shift);
}

/* The middle of a slot: what its values are taken for. */
static uint64_t slot_value(unsigned slot)
{
    unsigned shift = slot >> HIST_SLOT_BITS;
    if (shift <= 1)
        return slot; /* the first 512 */
    shift--;
    uint64_t low = (uint64_t)(slot - (shift << HIST_SLOT_BITS)) << shift;
    return low + (UINT64_C(1) << shift) / 2;
}

void hist_init(struct hist *h)
{
    memset(h, 0, sizeof(*h));
    h->min = UINT64_MAX;
}

void hist_record(struct hist *h, uint64_t value)
{
    double v = (double)value;

    h->count++;
    h->slots[slot_of(value)]++;
    h->sum += v;
    h->sum_squares += v * v;
    if (value < h->min)
        h->min = value;
    if (value > h->max)
        h->max = value;
}

void hist_merge(struct hist *into, const struct hist *from)
{
    into->count += from->count;
    into->sum += from->sum;
    into->sum_squares += from->sum_squares;
    if (from->min < into->min)
        into->min = from->min;
    if (from->max > into->max)
        into->max = from->max;
    for (unsigned i = 0; i < HIST_SLOTS; i++)
        into->slots[i] += from->slots[i];
}

uint64_t hist_percentile(const struct hist *h, double percent)
{
    CHECK(percent > 0 && percent <= 100);
    if (h->count == 0)
        return 0;
    /* The hair less keeps 99.9 % of 1000, which is 999.0000000000001, from becoming the 1000th. */
    uint64_t rank = (uint64_t)ceil(percent / 100 * (double)h->count - 1e-6), seen = 0;
    if (rank >= h->count)
        return h->max;
    for (unsigned i = 0; i < HIST_SLOTS; i++) {
        seen += h->slots[i];
        if (seen < rank || h->slots[i] == 0)
            continue;
        uint64_t value = slot_value(i);
        return value < h->min ? h->min : value > h->max ? h->max : value;
    }
    return h->max;
}

uint64_t hist_count_to(const struct hist *h, uint64_t value)
{
    unsigned last = slot_of(value);
    uint64_t n = 0;

    for (unsigned i = 0; i <= last; i++)
        n += h->slots[i];
    return n;
}

double hist_mean(const struct hist *h)
{
    return h->count ? h->sum / (double)h->count : 0;
}

double hist_stdev(const struct hist *h)
{
    if (h->count == 0)
        return 0;
    double mean = hist_mean(h), variance = h->sum_squares / (double)h->count - mean * mean;
    return variance > 0 ? sqrt(variance) : 0;
}
