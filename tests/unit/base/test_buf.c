/* The byte buffer against a model, at its limits, and out of memory. */
#include "base/buf.h"

#include <errno.h>
#include <stdlib.h>

#include "base/mem.h"
#include "test.h"

TEST(buf_starts_without_memory)
{
    struct buf b;
    buf_init(&b, 0);
    EXPECT_INT(buf_length(&b), 0);
    EXPECT_INT(buf_room(&b), 0);
    EXPECT(b.base == NULL);
    buf_fini(&b);
}

TEST(buf_append_and_consume)
{
    struct buf b;
    buf_init(&b, 0);
    EXPECT_INT(buf_append(&b, "hello ", 6), 0);
    EXPECT_INT(buf_append(&b, "world", 5), 0);
    EXPECT_INT(buf_append(&b, NULL, 0), 0);
    buf_consume(&b, 6);
    EXPECT_TEXT(buf_view(&b), "world");
    buf_consume(&b, 5);
    EXPECT_INT(buf_length(&b), 0);
    EXPECT_INT(b.head, 0); /* an empty buffer starts at its front again */
    buf_fini(&b);
}

TEST(buf_reserve_space_commit)
{
    struct buf b;
    buf_init(&b, 0);
    EXPECT_INT(buf_reserve(&b, 1000), 0);
    EXPECT(buf_room(&b) >= 1000);
    memset(buf_space(&b), 'x', 1000);
    buf_commit(&b, 1000);
    EXPECT_INT(buf_length(&b), 1000);
    buf_fini(&b);
}

TEST(buf_moves_instead_of_growing_when_most_was_consumed)
{
    struct buf b;
    buf_init(&b, 0);
    EXPECT_INT(buf_reserve(&b, 256), 0);
    size_t cap = b.cap;
    memset(buf_space(&b), 'a', cap);
    buf_commit(&b, cap);
    buf_consume(&b, cap - 3);
    EXPECT_INT(buf_append(&b, "bcd", 3), 0);
    EXPECT_INT(b.cap, cap);
    EXPECT_TEXT(buf_view(&b), "aaabcd");
    buf_fini(&b);
}

TEST(buf_limit_counts_live_bytes)
{
    struct buf b;
    buf_init(&b, 10);
    EXPECT_INT(buf_append(&b, "0123456789", 10), 0);
    EXPECT_INT(buf_append(&b, "x", 1), -ENOBUFS);
    EXPECT_TEXT(buf_view(&b), "0123456789");
    buf_consume(&b, 4);
    EXPECT_INT(buf_append(&b, "abcd", 4), 0);
    EXPECT_TEXT(buf_view(&b), "456789abcd");
    EXPECT_INT(b.cap, 10);
    buf_fini(&b);
}

TEST(buf_reserve_of_an_absurd_size_is_an_error)
{
    struct buf limited, unlimited;
    buf_init(&limited, 100);
    buf_init(&unlimited, 0);
    EXPECT_INT(buf_append(&limited, "x", 1), 0);
    EXPECT_INT(buf_append(&unlimited, "x", 1), 0);
    EXPECT_INT(buf_reserve(&limited, SIZE_MAX), -ENOBUFS);
    EXPECT_INT(buf_reserve(&unlimited, SIZE_MAX), -ENOMEM);
    EXPECT_INT(buf_reserve(&unlimited, SIZE_MAX / 2 + 2), -ENOMEM);
    EXPECT_TEXT(buf_view(&unlimited), "x");
    buf_fini(&limited);
    buf_fini(&unlimited);
}

TEST(buf_out_of_memory_leaves_the_content)
{
    struct buf b;
    buf_init(&b, 0);
    mem_fail_nth(1);
    EXPECT_INT(buf_append(&b, "x", 1), -ENOMEM);
    EXPECT_INT(buf_append(&b, "kept", 4), 0);
    mem_fail_nth(1);
    EXPECT_INT(buf_reserve(&b, 100000), -ENOMEM);
    EXPECT_TEXT(buf_view(&b), "kept");
    buf_fini(&b);
}

TEST(buf_printf_grows)
{
    struct buf b;
    char want[1001];

    buf_init(&b, 0);
    EXPECT_INT(buf_printf(&b, "%s-%d", "a", 1), 0);
    EXPECT_TEXT(buf_view(&b), "a-1");
    memset(want, 'z', 1000);
    want[1000] = '\0';
    buf_consume(&b, 3);
    EXPECT_INT(buf_printf(&b, "%s", want), 0);
    EXPECT_STR(buf_view(&b), str_from(want));
    buf_fini(&b);
}

TEST(buf_release_gives_memory_back_only_when_empty)
{
    struct buf b;
    buf_init(&b, 0);
    EXPECT_INT(buf_append(&b, "x", 1), 0);
    buf_release(&b);
    EXPECT_TEXT(buf_view(&b), "x");
    buf_consume(&b, 1);
    buf_release(&b);
    EXPECT(b.base == NULL);
    EXPECT_INT(buf_append(&b, "again", 5), 0);
    EXPECT_TEXT(buf_view(&b), "again");
    buf_fini(&b);
}

/* A stream of numbered bytes pushed through in random pieces comes out as it went in. */
TEST(buf_agrees_with_a_model)
{
    struct buf b;
    uint32_t seed = 7;
    unsigned char in = 0, out = 0;
    size_t live = 0;

    buf_init(&b, 1024);
    for (int step = 0; step < 50000; step++) {
        seed = seed * 1664525u + 1013904223u;
        size_t n = (seed >> 8) % 300;
        if (seed >> 31) {
            unsigned char bytes[300];
            for (size_t i = 0; i < n; i++)
                bytes[i] = (unsigned char)(in + i);
            int r = buf_append(&b, bytes, n);
            EXPECT_INT(r, live + n > 1024 ? -ENOBUFS : 0);
            if (r == 0)
                in = (unsigned char)(in + n), live += n;
        } else {
            n = n < live ? n : live;
            for (size_t i = 0; i < n; i++)
                EXPECT_INT((unsigned char)buf_view(&b).p[i], (unsigned char)(out + i));
            buf_consume(&b, n);
            out = (unsigned char)(out + n), live -= n;
        }
        EXPECT_INT(buf_length(&b), live);
    }
    buf_fini(&b);
}
