/* SHA-256: the examples of FIPS 180-4 and of NIST's vectors, in every cut. */
#include "base/sha256.h"

#include <stdio.h>

#include "test.h"

static void expect_digest(struct str message, size_t step, const char *want)
{
    struct sha256 s;
    uint8_t digest[SHA256_BYTES];
    char hex[2 * SHA256_BYTES + 1];

    sha256_init(&s);
    for (struct str rest = message; rest.n; rest = str_skip(rest, step))
        sha256_update(&s, str_take(rest, step));
    sha256_final(&s, digest);
    for (size_t i = 0; i < SHA256_BYTES; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    EXPECT_STR(str_from(hex), str_from(want));
}

TEST(digests_of_known_messages_in_every_cut)
{
    static const struct {
        const char *message, *digest;
    } known[] = {
        { "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
        { "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
        { "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
          "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1" },
        { "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmno"
          "ijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
          "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1" },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(known); i++)
        for (size_t step = 1; step <= 113; step++)
            expect_digest(test_guarded(str_from(known[i].message)), step, known[i].digest);
}

TEST(digest_of_a_million_a)
{
    static char text[1000000];

    memset(text, 'a', sizeof(text));
    expect_digest((struct str){ text, sizeof(text) }, 999,
                  "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}
