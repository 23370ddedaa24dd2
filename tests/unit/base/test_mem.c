/* Allocation and its fault seam. */
#include "base/mem.h"

#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

TEST(mem_zero_bytes_is_a_block_of_its_own)
{
    void *a = mem_try_alloc(0), *b = mem_try_zalloc(0), *c = mem_alloc(0);
    EXPECT(a && b && c && a != b && b != c);
    a = mem_try_realloc(a, 0);
    EXPECT(a != NULL);
    mem_free(a);
    mem_free(b);
    mem_free(c);
    mem_free(NULL);
}

TEST(mem_the_nth_try_fails_and_only_that)
{
    void *p;

    mem_fail_nth(3);
    EXPECT((p = mem_try_alloc(1)) != NULL);
    mem_free(p);
    EXPECT((p = mem_try_zalloc(1)) != NULL);
    EXPECT(mem_try_realloc(p, 100) == NULL); /* p stays valid */
    EXPECT((p = mem_try_realloc(p, 100)) != NULL);
    mem_free(p);
    mem_fail_nth(1);
    mem_fail_nth(0);
    EXPECT((p = mem_try_alloc(1)) != NULL);
    mem_free(p);
}

TEST(mem_calls_that_abort_are_not_counted)
{
    mem_fail_nth(1);
    char *z = mem_strdup("x");
    EXPECT_TEXT(str_from(z), "x");
    mem_free(z);
    EXPECT(mem_try_alloc(1) == NULL);
}

TEST(mem_strings)
{
    char *a = mem_strndup(test_guarded(STR("abc"))), *b = mem_printf("%d-%s", 7, "x");
    char *c = mem_strndup(STR_NONE);
    EXPECT_TEXT(str_from(a), "abc");
    EXPECT_TEXT(str_from(b), "7-x");
    EXPECT_TEXT(str_from(c), "");
    mem_free(a);
    mem_free(b);
    mem_free(c);
}
