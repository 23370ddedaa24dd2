/*
 * Paths of request targets: one pass decodes, merges slashes and removes dot segments, always on
 * the decoded bytes, so that "%2e%2e", "..%2f" and ".." are the same thing to every later reader.
 */
#include <errno.h>

#include "http/http_int.h"

/* Drops the last segment of out[0, n), which ends in '/'. Returns the new length, 0 above the root.
 */
static size_t drop_segment(const char *out, size_t n)
{
    if (n <= 1)
        return 0;
    n--;
    while (out[n - 1] != '/')
        n--;
    return n;
}

/* A segment that starts at out[start] ends at out[n]. Returns the length without it when it is a
 * dot segment, else n; -EINVAL when ".." climbs above the root. */
static ptrdiff_t close_segment(const char *out, size_t start, size_t n)
{
    DCHECK(start > 0 && start <= n && out[start - 1] == '/');
    if (n - start == 1 && out[start] == '.')
        return (ptrdiff_t)start;
    if (n - start == 2 && out[start] == '.' && out[start + 1] == '.') {
        size_t kept = drop_segment(out, start);
        return kept > 0 ? (ptrdiff_t)kept : -EINVAL;
    }
    return (ptrdiff_t)n;
}

int http_normalize_path(struct str path, char *out)
{
    size_t n = 0, start = 1;
    if (path.n == 0 || path.p[0] != '/' || path.n > INT32_MAX)
        return -EINVAL;
    for (size_t i = 0; i < path.n; i++) {
        char c = path.p[i];
        if (c == '%') {
            int high = path.n - i > 2 ? hex_value(path.p[i + 1]) : -1;
            int low = path.n - i > 2 ? hex_value(path.p[i + 2]) : -1;
            if (high < 0 || low < 0)
                return -EINVAL;
            c = (char)(high << 4 | low);
            i += 2;
        }
        if (c == '\0')
            return -EINVAL;
        if (c != '/') {
            out[n++] = c;
            continue;
        }
        if (n > 0) {
            ptrdiff_t kept = close_segment(out, start, n);
            if (kept < 0)
                return (int)kept;
            n = (size_t)kept;
            if (out[n - 1] == '/') {
                start = n;
                continue;
            }
        }
        out[n++] = '/';
        start = n;
    }
    ptrdiff_t kept = close_segment(out, start, n);
    if (kept < 0)
        return (int)kept;
    out[kept] = '\0';
    return (int)kept;
}
