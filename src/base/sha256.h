/* SHA-256 (FIPS 180-4), fed in pieces. For comparing contents, not for keys: it is not hardened
 * against timing. */
#ifndef SAPID_BASE_SHA256_H
#define SAPID_BASE_SHA256_H

#include <stdint.h>

#include "base/str.h"

enum { SHA256_BYTES = 32, SHA256_BLOCK_BYTES = 64 };

struct sha256 {
    uint32_t state[8];
    uint64_t bytes;
    uint8_t block[SHA256_BLOCK_BYTES]; /* private: what came since the last whole block */
};

void sha256_init(struct sha256 *s);
void sha256_update(struct sha256 *s, struct str piece);
/* The state is used up: init before the next message. */
void sha256_final(struct sha256 *s, uint8_t ret_digest[SHA256_BYTES]);

#endif
