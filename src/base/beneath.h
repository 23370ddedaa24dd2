/*
 * Opening a file that somebody else named, only if it lies beneath one of some folders. The kernel
 * decides, in one step (openat2 with RESOLVE_BENEATH, Linux 5.6): "..", absolute links and links
 * that lead out are refused, and no rename in between helps.
 */
#ifndef SAPID_BASE_BENEATH_H
#define SAPID_BASE_BENEATH_H

#include <stddef.h>

#include "base/check.h"
#include "base/str.h"

/* Read-only descriptor of the regular file `path` (absolute), which must begin with one of the
 * `roots` (absolute, as written or as they resolve), or -errno: -EACCES outside of all of them or
 * not readable, -ENOENT, -EISDIR for what is no regular file, -ENAMETOOLONG. */
MUST_USE int beneath_open(const struct str *roots, size_t n, struct str path);

/* The text of a relative path that leads nowhere but down: no empty segment, no "." and no "..". */
bool beneath_is_plain(struct str path);

/* The path in `folder` that a URL path means: `rest` of it, percent-decoded, up to a "?". Written
 * to `out`; p == NULL when it is longer than `size`. */
struct str beneath_from_url(struct str folder, struct str rest, char *out, size_t size);

#endif
