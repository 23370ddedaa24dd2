/*
 * X-Sendfile and X-Accel-Redirect of FastCGI servers. PHP-FPM cannot hand over a descriptor, so the
 * gateway opens the file itself: with its own rights, and only beneath the sendfile_roots of the
 * pool. (With the engine the worker opens it as the pool's user: php/engine/sendfile.c.)
 *
 * A request takes a copy of the pool's folders along: the configuration that it came under may be
 * gone before its answer is there.
 */
#include "gateway/upstream_int.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>

#include "base/beneath.h"
#include "base/mem.h"

struct upstream_files {
    size_t n_roots, n_locations;
    struct str *roots;
    struct config_pair *locations;
    char texts[];
};

static struct str keep(char **at, struct str s)
{
    struct str kept = { *at, s.n };

    memcpy(*at, s.p, s.n);
    *at += s.n;
    return kept;
}

int upstream_files_new(const struct config_pool *pool, struct upstream_files **ret)
{
    const struct config_strings *roots = &pool->sendfile_roots;
    const struct config_pairs *locations = &pool->accel_locations;
    size_t bytes = 0;

    if (roots->n == 0) {
        *ret = NULL;
        return 0;
    }
    for (uint32_t i = 0; i < roots->n; i++)
        bytes += roots->v[i].n;
    for (uint32_t i = 0; i < locations->n; i++)
        bytes += locations->v[i].key.n + locations->v[i].value.n;
    struct upstream_files *f = mem_try_zalloc(sizeof(*f) + bytes);
    if (!f)
        return -ENOMEM;
    f->n_roots = roots->n;
    f->n_locations = locations->n;
    f->roots = mem_zalloc(roots->n * sizeof(f->roots[0]));
    f->locations = mem_zalloc((locations->n + 1) * sizeof(f->locations[0]));
    char *at = f->texts;
    for (uint32_t i = 0; i < roots->n; i++)
        f->roots[i] = keep(&at, roots->v[i]);
    for (uint32_t i = 0; i < locations->n; i++) {
        f->locations[i].key = keep(&at, locations->v[i].key);
        f->locations[i].value = keep(&at, locations->v[i].value);
    }
    CHECK(at == f->texts + bytes);
    *ret = f;
    return 0;
}

void upstream_files_free(struct upstream_files *f)
{
    if (!f)
        return;
    mem_free(f->roots);
    mem_free(f->locations);
    mem_free(f);
}

/* The file that an internal URL means, by the longest location that it begins with. */
static struct str locate(const struct upstream_files *f, struct str url, char *out, size_t size)
{
    const struct config_pair *best = NULL;

    for (size_t i = 0; i < f->n_locations; i++) {
        const struct config_pair *one = &f->locations[i];
        if (str_has_prefix(url, one->key) && (!best || one->key.n > best->key.n))
            best = one;
    }
    return best ? beneath_from_url(best->value, str_skip(url, best->key.n), out, size) : STR_NONE;
}

int upstream_files_open(const struct upstream_files *f, const struct exchange *x, struct str lines)
{
    char buffer[PATH_MAX], id[REQUEST_ID_BYTES + 1];

    while (lines.n) {
        struct str value = str_cut(&lines, '\n');
        if (value.n && value.p[value.n - 1] == '\r')
            value.n--;
        struct str name = str_cut(&value, ':'), path = str_trim(value);
        bool is_url = str_eq_nocase(name, STR("X-Accel-Redirect"));
        if (!path.n || (!is_url && !str_eq_nocase(name, STR("X-Sendfile"))))
            continue;
        exchange_request_id(x, id);
        if (is_url) {
            struct str url = path;
            path = locate(f, url, buffer, sizeof(buffer));
            if (!path.p) {
                log_error("request %s: X-Accel-Redirect: %.*s begins with none of accel_locations",
                          id, STR_ARG(url));
                return -ENOENT;
            }
        }
        int fd = beneath_open(f->roots, f->n_roots, path);
        if (fd < 0)
            log_error("request %s: %.*s cannot be sent: %s%s", id, STR_ARG(path), strerror(-fd),
                      fd == -EACCES ? " (it must lie beneath sendfile_roots, also behind its "
                                      "links, and be readable for the gateway's user)"
                                    : "");
        return fd;
    }
    return -ENODATA;
}
