/* In a build with AddressSanitizer or ThreadSanitizer nothing can be frozen, and that is said. */
#include <errno.h>

#include "snapshot/snapshot.h"
#include "test.h"

TEST(a_build_with_a_sanitizer_refuses)
{
    struct snapshot_refusal no;

    EXPECT_INT(snapshot_prepare(NULL), -ENOTSUP);
    EXPECT(!snapshot_is_prepared());
    EXPECT_INT(snapshot_take(NULL, &no), -ENOTSUP);
    EXPECT(no.text[0]);
}
