/* Histogram: percentiles against sorted values, merging, extremes. */
#include "base/hist.h"

#include <math.h>
#include <stdlib.h>

#include "test.h"

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 20;
}

/* Every percentile is within 0.5 % of the value that sorting finds. */
static void expect_percentiles(uint64_t *values, size_t n, const struct hist *h)
{
    static const double percents[] = { 0.1, 1, 10, 50, 75, 90, 95, 99, 99.9, 99.99, 100 };

    qsort(values, n, sizeof(values[0]), compare);
    for (size_t i = 0; i < ARRAY_LENGTH(percents); i++) {
        size_t rank = (size_t)ceil(percents[i] / 100 * (double)n - 1e-6);
        double want = (double)values[rank ? rank - 1 : 0];
        double got = (double)hist_percentile(h, percents[i]);
        if (fabs(got - want) > 0.005 * want)
            test_fail(__FILE__, __LINE__, "p%g: %.0f, expected %.0f", percents[i], got, want);
    }
}

TEST(percentiles_are_within_half_a_percent_in_every_magnitude)
{
    enum { N = 20000 };
    static struct hist h;
    static uint64_t values[N];
    uint64_t state = 1;

    for (unsigned bits = 1; bits <= 42; bits++) {
        hist_init(&h);
        for (size_t i = 0; i < N; i++) {
            values[i] = next_random(&state) & ((UINT64_C(1) << bits) - 1);
            hist_record(&h, values[i]);
        }
        expect_percentiles(values, N, &h);
    }
}

TEST(percentiles_of_values_over_all_magnitudes)
{
    enum { N = 50000 };
    static struct hist h;
    static uint64_t values[N];
    uint64_t state = 7;

    hist_init(&h);
    for (size_t i = 0; i < N; i++) {
        values[i] = (next_random(&state) & ((UINT64_C(1) << 42) - 1)) >> (next_random(&state) % 40);
        hist_record(&h, values[i]);
    }
    expect_percentiles(values, N, &h);
}

TEST(values_below_512_are_exact)
{
    static struct hist h;

    for (uint64_t v = 0; v < 512; v++) {
        hist_init(&h);
        hist_record(&h, 0);
        hist_record(&h, v);
        hist_record(&h, 1000);
        EXPECT_INT(hist_percentile(&h, 60), v);
    }
}

TEST(an_empty_histogram_is_all_zero)
{
    static struct hist h;

    hist_init(&h);
    EXPECT_INT(hist_percentile(&h, 50), 0);
    EXPECT_INT(hist_percentile(&h, 100), 0);
    EXPECT(hist_mean(&h) == 0 && hist_stdev(&h) == 0);
    EXPECT_INT(hist_count_to(&h, UINT64_MAX), 0);
}

TEST(mean_deviation_and_extremes_are_exact)
{
    static struct hist h;
    static const uint64_t values[] = { 2000, 4000, 4000, 4000, 5000, 5000, 7000, 9000 };

    hist_init(&h);
    for (size_t i = 0; i < ARRAY_LENGTH(values); i++)
        hist_record(&h, values[i]);
    EXPECT(fabs(hist_mean(&h) - 5000) < 1e-9);
    EXPECT(fabs(hist_stdev(&h) - 2000) < 1e-9);
    EXPECT_INT(h.min, 2000);
    EXPECT_INT(h.max, 9000);
    EXPECT_INT(hist_percentile(&h, 100), 9000);
    EXPECT_INT(hist_count_to(&h, 4500), 4);
    EXPECT_INT(hist_count_to(&h, 1000), 0);
    EXPECT_INT(hist_count_to(&h, UINT64_MAX), 8);
}

TEST(merged_histograms_are_as_one)
{
    static struct hist one, parts[3], sum;
    uint64_t state = 3;

    hist_init(&one);
    hist_init(&sum);
    for (size_t i = 0; i < 3; i++)
        hist_init(&parts[i]);
    for (size_t i = 0; i < 10000; i++) {
        uint64_t v = next_random(&state) % 100000000;
        hist_record(&one, v);
        hist_record(&parts[i % 3], v);
    }
    for (size_t i = 0; i < 3; i++)
        hist_merge(&sum, &parts[i]);
    EXPECT(memcmp(one.slots, sum.slots, sizeof(one.slots)) == 0);
    EXPECT_INT(sum.count, one.count);
    EXPECT_INT(sum.min, one.min);
    EXPECT_INT(sum.max, one.max);
    EXPECT(fabs(hist_stdev(&sum) - hist_stdev(&one)) < 1e-3);
}

TEST(values_beyond_the_last_slot_keep_the_maximum)
{
    static struct hist h;

    hist_init(&h);
    hist_record(&h, UINT64_MAX);
    EXPECT_INT(hist_percentile(&h, 50), UINT64_MAX);
    hist_record(&h, 5);
    EXPECT_INT(hist_percentile(&h, 50), 5);
    EXPECT_INT(h.slots[HIST_SLOTS - 1], 1);
}
