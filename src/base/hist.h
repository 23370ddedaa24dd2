/*
 * Histogram of values over many orders of magnitude, in the manner of HdrHistogram: each power of
 * two is cut into 256 equal slots, so that a percentile is within 0.2 % of the truth from 1 ns to
 * over an hour. Recording is a shift and an increment; histograms of several threads are added up.
 */
#ifndef SAPID_BASE_HIST_H
#define SAPID_BASE_HIST_H

#include <stdint.h>

enum {
    HIST_SLOT_BITS = 8,   /* 256 slots in each power of two */
    HIST_VALUE_BITS = 42, /* larger values fall into the last slot; min, max and mean keep them */
    HIST_SLOTS = (HIST_VALUE_BITS - HIST_SLOT_BITS + 1) << HIST_SLOT_BITS,
};

struct hist {
    uint64_t count;
    uint64_t min, max;       /* exact; min is UINT64_MAX while empty */
    double sum, sum_squares; /* for mean and deviation */
    uint64_t slots[HIST_SLOTS];
};

void hist_init(struct hist *h);
void hist_record(struct hist *h, uint64_t value);
/* Adds all that `from` has recorded. */
void hist_merge(struct hist *into, const struct hist *from);
/* The value that `percent` of the recorded ones do not exceed; 0 when nothing was recorded.
 * 0 < percent <= 100; 100 gives `max`. */
uint64_t hist_percentile(const struct hist *h, double percent);
/* How many of the recorded values are at most `value`, to the precision of a slot. */
uint64_t hist_count_to(const struct hist *h, uint64_t value);
double hist_mean(const struct hist *h);
/* Standard deviation of what was recorded (not of a sample of it). */
double hist_stdev(const struct hist *h);

#endif
