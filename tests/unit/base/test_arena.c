/* The arena: alignment, limit, reuse, out of memory. */
#include "base/arena.h"

#include "base/mem.h"
#include "test.h"

TEST(arena_blocks_are_aligned_and_do_not_overlap)
{
    struct arena a;
    unsigned char *p[200];

    arena_init(&a, 0);
    for (size_t i = 0; i < ARRAY_LENGTH(p); i++) {
        p[i] = arena_alloc(&a, i + 1);
        EXPECT_INT((uintptr_t)p[i] % 16, 0);
        memset(p[i], (int)i, i + 1);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(p); i++)
        for (size_t k = 0; k <= i; k++)
            EXPECT_INT(p[i][k], i);
    arena_reset(&a);
}

TEST(arena_takes_more_than_a_block_at_once)
{
    struct arena a;
    arena_init(&a, 0);
    char *small = arena_alloc(&a, 10), *large = arena_alloc(&a, 100000),
         *next = arena_alloc(&a, 10);
    EXPECT(small && large && next);
    memset(large, 1, 100000);
    arena_reset(&a);
    EXPECT_INT(a.used_bytes, 0);
    EXPECT(arena_alloc(&a, 10) != NULL);
    arena_reset(&a);
    arena_reset(&a);
}

TEST(arena_limit_is_exact)
{
    struct arena a;
    arena_init(&a, 64);
    EXPECT(arena_alloc(&a, 33) != NULL); /* 48 after rounding */
    EXPECT(arena_alloc(&a, 17) == NULL);
    EXPECT(arena_alloc(&a, 16) != NULL);
    EXPECT(arena_alloc(&a, 1) == NULL);
    EXPECT(arena_alloc(&a, SIZE_MAX) == NULL);
    EXPECT(arena_alloc(&a, SIZE_MAX - 40) == NULL);
    EXPECT_INT(a.used_bytes, 64);
    arena_reset(&a);
}

TEST(arena_without_a_limit_refuses_an_absurd_size)
{
    struct arena a;
    arena_init(&a, 0);
    EXPECT(arena_alloc(&a, 1) != NULL);
    EXPECT(arena_alloc(&a, SIZE_MAX) == NULL);
    EXPECT(arena_alloc(&a, SIZE_MAX - 31) == NULL);
    EXPECT(arena_alloc(&a, 1) != NULL);
    arena_reset(&a);
}

TEST(arena_zalloc_clears)
{
    struct arena a;
    arena_init(&a, 0);
    memset(arena_alloc(&a, 512), 0xff, 512);
    arena_reset(&a);
    unsigned char *p = arena_zalloc(&a, 512);
    for (int i = 0; i < 512; i++)
        EXPECT_INT(p[i], 0);
    arena_reset(&a);
}

TEST(arena_copy_is_terminated)
{
    struct arena a;
    arena_init(&a, 0);
    struct str c = arena_copy(&a, test_guarded(STR("abc")));
    EXPECT_TEXT(c, "abc");
    EXPECT_INT(c.p[3], '\0');
    EXPECT(arena_copy(&a, STR_NONE).p != NULL); /* NULL means out of memory only */
    arena_reset(&a);
}

TEST(arena_out_of_memory_is_null_and_leaves_the_rest)
{
    struct arena a;
    arena_init(&a, 0);
    struct str kept = arena_copy(&a, STR("kept"));
    mem_fail_nth(1);
    EXPECT(arena_alloc(&a, 100000) == NULL);
    mem_fail_nth(1);
    EXPECT(arena_copy(&a, (struct str){ kept.p, 4 }).p != NULL); /* no new block needed */
    EXPECT_TEXT(kept, "kept");
    arena_reset(&a);
    EXPECT(arena_alloc(&a, 1) == NULL); /* the pending failure */
    EXPECT(arena_zalloc(&a, 1) != NULL);
    arena_reset(&a);
}
