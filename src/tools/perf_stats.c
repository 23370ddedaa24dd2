/*
 * Change or noise. Two candidates run in blocks of the same minutes, and each block gives one ratio
 * of B to A for each metric; starting both afresh for each block makes what an instance is lucky or
 * unlucky with (addresses, cores) part of the noise, where it belongs.
 *
 * The test: percentile bootstrap of the median of the blocks' log ratios, 99 % interval. A metric
 * has changed when the interval excludes 1 and the median is notable (3 %); else it is noise.
 * Random numbers of the bootstrap are seeded constantly, so that the same figures give the same
 * verdict.
 */
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "tools/perf_int.h"

enum { RESAMPLES = 4000 }; /* 20 of them beyond each end of the interval */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double perf_median(double *values, size_t n)
{
    if (n == 0)
        return 0;
    qsort(values, n, sizeof(*values), by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

const char *perf_verdict_name(enum perf_verdict v)
{
    static const char *const names[] = {
        [PERF_NOISE] = "noise", [PERF_ACCEPT] = "accept", [PERF_REGRESS] = "regress"
    };
    return names[v];
}

static size_t draw(uint64_t *state, size_t n)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (size_t)((*state * UINT64_C(2685821657736338717)) >> 33) % n;
}

/* Puts the value of rank `k` in its place, smaller ones before it (Hoare's selection): a bootstrap
 * takes thousands of medians, and sorting for each would take most of the time of a verdict. */
static double select_rank(double *v, size_t n, size_t k)
{
    size_t low = 0, high = n - 1;

    while (low < high) {
        double pivot = v[low + (high - low) / 2];
        size_t i = low, j = high;
        for (;;) {
            while (v[i] < pivot)
                i++;
            while (pivot < v[j])
                j--;
            if (i >= j)
                break;
            double swapped = v[i];
            v[i++] = v[j];
            v[j--] = swapped;
        }
        /* [low, i) are no greater than the pivot, (j, high] no smaller; between is the pivot. */
        if (i > j) {
            if (k <= j)
                high = j;
            else
                low = i;
        } else if (k < i) {
            high = i - 1;
        } else if (k > i) {
            low = i + 1;
        } else {
            break;
        }
    }
    return v[k];
}

static double select_median(double *v, size_t n)
{
    double upper = select_rank(v, n, n / 2), lower = v[0];

    if (n % 2)
        return upper;
    for (size_t i = 1; i < n / 2; i++)
        lower = v[i] > lower ? v[i] : lower;
    return (lower + upper) / 2;
}

/* Median of the means of all pairs; `work` has room for n (n + 1) / 2. */
static double centre(const double *v, size_t n, double *work)
{
    size_t pairs = 0;

    for (size_t i = 0; i < n; i++)
        for (size_t k = i; k < n; k++)
            work[pairs++] = (v[i] + v[k]) / 2;
    return select_median(work, pairs);
}

double perf_centre(const double *values, size_t n)
{
    double *logs = mem_alloc((n + n * (n + 1) / 2 + 1) * sizeof(*logs)), result = NAN;
    size_t usable = 0;

    for (size_t i = 0; i < n; i++)
        if (values[i] > 0 && isfinite(values[i]))
            logs[usable++] = log(values[i]);
    if (usable)
        result = exp(centre(logs, usable, logs + n));
    mem_free(logs);
    return result;
}

/* Interval of the centre of `logs`, in `ret_low` and `ret_high`. */
static void bootstrap(const double *logs, size_t n, double *work, double *ret_low, double *ret_high)
{
    double *centres = mem_alloc(RESAMPLES * sizeof(*centres));
    double *sample = mem_alloc(n * sizeof(*sample));
    uint64_t state = UINT64_C(0x9e3779b97f4a7c15);
    size_t tail = RESAMPLES * (100 - PERF_CONFIDENCE_PERCENT) / 200;

    for (size_t i = 0; i < RESAMPLES; i++) {
        for (size_t k = 0; k < n; k++)
            sample[k] = logs[draw(&state, n)];
        centres[i] = centre(sample, n, work);
    }
    qsort(centres, RESAMPLES, sizeof(*centres), by_value);
    *ret_low = centres[tail];
    *ret_high = centres[RESAMPLES - 1 - tail];
    mem_free(centres);
    mem_free(sample);
}

void perf_judge(const double *ratios, size_t n, int better, struct perf_ratio *ret)
{
    double *logs = mem_alloc((n + 1) * sizeof(*logs)), low = 0, high = 0;
    size_t usable = 0;

    for (size_t i = 0; i < n; i++)
        if (ratios[i] > 0 && isfinite(ratios[i]))
            logs[usable++] = log(ratios[i]);
    *ret = (struct perf_ratio){ .ratio = 1, .low = 0, .high = INFINITY, .verdict = PERF_NOISE };
    if (usable >= 3) {
        double *work = mem_alloc(usable * (usable + 1) / 2 * sizeof(*work));
        bootstrap(logs, usable, work, &low, &high);
        ret->ratio = exp(centre(logs, usable, work));
        mem_free(work);
        ret->low = exp(low);
        ret->high = exp(high);
    }
    mem_free(logs);
    bool notable = fabs(ret->ratio - 1) * 100 >= PERF_NOTABLE_PERCENT;
    if (usable < 3 || better == 0 || !notable || (ret->low <= 1 && ret->high >= 1))
        return;
    ret->verdict = (ret->ratio > 1) == (better > 0) ? PERF_ACCEPT : PERF_REGRESS;
}
