/*
 * Pools that are the image of an entry script (CONFIG_POOL_IMAGE): a seat that the supervisor has
 * given a script, which boots up to its freeze point once (engine/seed.c, engine/freeze_point.c)
 * for a request of the server's own and then answers from there, in workers that go back after each
 * request. The rest is a pool with rollback like any other (pool_images.c).
 *
 * What differs: a script that cannot be frozen is no error of the pool but an answer to the
 * supervisor, and the classic pool goes on serving it; and an image is as old as the files it was
 * made of, so these are looked at as often as opcache would look.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/param.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "php/pool_int.h"

enum { URL_BYTES = 4096 };

struct watched {
    char *path;
    bool there;
    struct timespec changed;
    dev_t device;
    ino_t inode;
    off_t bytes;
};

struct pool_script {
    struct engine_files *files; /* shared with the process to be frozen */
    struct watched *watched;
    size_t n_watched;
    uint64_t every_ns, look_ns; /* look_ns 0: nothing is watched */
    const char *url;            /* of the boot */
    char *base;                 /* "https://example.org" */
};

bool pool_script_is(const struct pool *p)
{
    return p->conf->kind == CONFIG_POOL_IMAGE;
}

/* The gateway's paths as they are called inside the chroot. */
static char *strip_root(const struct pool *p, const char *path)
{
    struct str root = p->conf->chroot, s = str_from(path);

    if (root.n > 1 && str_has_prefix(s, root) && (s.n == root.n || s.p[root.n] == '/'))
        s = str_skip(s, root.n);
    return mem_strndup(s.n ? s : STR("/"));
}

/* "https://host/path" of a path or a URL. */
static char *absolute(const struct pool_script *s, struct str url)
{
    if (url.n && url.p[0] != '/')
        return mem_strndup(url);
    return mem_printf("%s%.*s", s->base, STR_ARG(url));
}

/* Scheme and host of the request that asked for the image, or of snapshot_url if it names one. */
static char *find_base(const struct pool *p)
{
    struct str url = p->conf->snapshot_url;
    const char *host = p->boot.image_host;

    if (url.n && url.p[0] != '/') {
        struct str rest = str_skip(url, str_has_prefix(url, STR("https://")) ? 8 : 7);
        ptrdiff_t slash = str_find(rest, '/');
        size_t n = slash < 0 ? url.n : (size_t)(rest.p - url.p) + (size_t)slash;
        return mem_strndup(str_take(url, n));
    }
    return mem_printf("%s://%s", p->boot.image_https ? "https" : "http",
                      host && *host ? host : "localhost");
}

int pool_script_init(struct pool *p)
{
    struct pool_script *s = mem_zalloc(sizeof(*s));
    struct str url = p->conf->snapshot_url;

    CHECK(pool_script_is(p) && p->boot.image_script);
    p->loop.script = strip_root(p, p->boot.image_script);
    p->loop.script_name = p->boot.image_script_name;
    p->loop.document_root = strip_root(p, p->boot.document_root);
    s->base = find_base(p);
    s->url = absolute(s, url.n ? url : str_from(p->loop.script_name));
    s->files =
        mmap(NULL, ENGINE_FILES_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (s->files == MAP_FAILED) {
        int rc = -errno;
        mem_free(s);
        return rc;
    }
    p->script = s;
    return 0;
}

static const char **copy_strings(const struct config_strings *from)
{
    const char **list = mem_zalloc((from->n + 1) * sizeof(*list));

    for (uint32_t i = 0; i < from->n; i++)
        list[i] = mem_strndup(from->v[i]);
    return list;
}

void pool_script_describe(const struct pool *p, struct engine_image *image)
{
    const struct pool_script *s = p->script;
    const struct config_pool *c = p->conf;
    const char **warmup = mem_zalloc((c->snapshot_warmup.n + 1) * sizeof(*warmup));

    for (uint32_t i = 0; i < c->snapshot_warmup.n; i++)
        warmup[i] = absolute(s, c->snapshot_warmup.v[i]);
    image->entry = true;
    image->url = s->url;
    image->server_addr = p->boot.image_address;
    /* behind a proxy, or a mapped port, it is not that of the Host */
    image->server_port = c->snapshot_url.n && c->snapshot_url.p[0] != '/' ? 0 : p->boot.image_port;
    image->warmup = warmup;
    image->n_warmup = c->snapshot_warmup.n;
    image->at = c->snapshot_at.n ? mem_strndup(c->snapshot_at) : NULL;
    image->rerun = copy_strings(&c->snapshot_rerun);
    image->n_rerun = c->snapshot_rerun.n;
    image->guards = settings_pairs(&c->snapshot_guards);
    image->n_guards = c->snapshot_guards.n;
    image->files = s->files;
}

void pool_script_refuse(struct pool *p, const char *why)
{
    pool_tell_supervisor(p, CONTROL_IMAGE_REFUSED, why);
    pool_stop_now(p, 1);
}

void pool_script_failed(struct pool *p, struct str why)
{
    bool serves = false;

    for (uint32_t i = 0; i < p->n_seats; i++)
        serves |= p->seats[i].pid != 0;
    if (!serves)
        pool_script_refuse(p, mem_strndup(why));
}

/* --- files ------------------------------------------------------------------------------------ */

static void look_at(struct watched *w)
{
    struct stat st;

    w->there = stat(w->path, &st) == 0;
    bool is_file = w->there && !S_ISDIR(st.st_mode); /* what is in a folder is its own matter */
    w->changed = is_file ? st.st_mtim : (struct timespec){ 0 };
    w->bytes = is_file ? st.st_size : 0;
    w->device = w->there ? st.st_dev : 0;
    w->inode = w->there ? st.st_ino : 0;
}

static void forget_files(struct pool_script *s)
{
    for (size_t i = 0; i < s->n_watched; i++)
        mem_free(s->watched[i].path);
    mem_free(s->watched);
    s->watched = NULL;
    s->n_watched = 0;
    s->look_ns = 0;
}

void pool_script_frozen(struct pool *p)
{
    struct pool_script *s = p->script;
    const struct engine_files *f = s->files;
    size_t bytes = MIN(f->bytes, (size_t)ENGINE_FILES_BYTES - sizeof(*f)), n = 0;

    forget_files(s);
    if (f->every_s == 0 || bytes == 0 || f->text[bytes - 1] != '\0')
        return;
    for (size_t at = 0; at < bytes; at += strlen(f->text + at) + 1)
        n++;
    s->watched = mem_zalloc(n * sizeof(*s->watched));
    for (size_t at = 0; at < bytes; at += strlen(f->text + at) + 1) {
        struct watched *w = &s->watched[s->n_watched++];
        /* the workers' root may not be this process's */
        w->path = p->conf->chroot.n > 1
                      ? mem_printf("%.*s%s", STR_ARG(p->conf->chroot), f->text + at)
                      : mem_strdup(f->text + at);
        look_at(w);
    }
    if (f->dropped)
        log_warn("%" PRIu32 " files of the image are not watched: there are too many", f->dropped);
    s->every_ns = f->every_s * NS_PER_S;
    s->look_ns = clock_monotonic_ns() + s->every_ns;
}

uint64_t pool_script_wake_ns(const struct pool *p)
{
    return p->script && p->script->look_ns ? p->script->look_ns : UINT64_MAX;
}

void pool_script_look(struct pool *p)
{
    struct pool_script *s = p->script;
    uint64_t now = clock_monotonic_ns();
    char why[512];

    if (!s || s->look_ns == 0 || now < s->look_ns)
        return;
    s->look_ns = now + s->every_ns;
    for (size_t i = 0; i < s->n_watched; i++) {
        const struct watched *was = &s->watched[i];
        struct watched is = { .path = was->path };
        look_at(&is);
        if (is.there == was->there && is.device == was->device && is.inode == was->inode &&
            is.bytes == was->bytes && is.changed.tv_sec == was->changed.tv_sec &&
            is.changed.tv_nsec == was->changed.tv_nsec)
            continue;
        snprintf(why, sizeof(why), "%s %s", was->path,
                 !is.there    ? "has gone"
                 : was->there ? "has changed"
                              : "is new");
        pool_renew_image(p, why);
        return;
    }
}
