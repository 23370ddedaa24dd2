/*
 * A plan is a configuration as accepted, with everything decided that must be decided before a role
 * is started. It is made from the file as it is now and never changes afterwards (but for
 * what falls back to PHP-FPM while it is in force); a reload makes another.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "supervisor/supervisor_int.h"

static int detect_root(const struct config_pool *c, struct pool_plan *p, char *message, size_t size)
{
    struct config_detected found;
    char *dir = mem_strndup(c->document_root);
    int r = config_detect_root(dir, &found);

    if (r < 0) {
        snprintf(message, size, "%s", found.sentence);
    } else {
        p->document_root = mem_strdup(found.root);
        p->detected = mem_strdup(found.sentence);
    }
    config_detected_fini(&found);
    mem_free(dir);
    return r;
}

/* The root as it is now: a deploy that moves a symlink takes effect with the next plan. */
int plan_resolve_root(const struct config_pool *c, struct pool_plan *p, char *message, size_t size)
{
    if (c->document_root_given)
        p->document_root = mem_strndup(c->document_root);
    else if (detect_root(c, p, message, size) < 0)
        return -EINVAL;
    char *resolved = realpath(p->document_root, NULL);
    if (!resolved) {
        snprintf(message, size,
                 "document root %s: %s; name an existing folder with %s%.*s.document_root",
                 p->document_root, strerror(errno),
                 str_eq(c->table, STR("php")) ? "--root or " : "", STR_ARG(c->table));
        return -EINVAL;
    }
    mem_free(p->document_root);
    p->document_root = mem_strdup(resolved);
    free(resolved);
    return 0;
}

int plan_check_readable(const struct user *u, const char *who, const char *root, char *message,
                        size_t size)
{
    char refused[4096] = "";
    int r = user_can_read(u, root, refused, sizeof(refused));

    if (r < 0)
        snprintf(message, size,
                 "%s (user %s, uid %u) cannot read the document root %s: %s: %s; give that user "
                 "access, or set another one",
                 who, u->name[0] ? u->name : "without a name", (unsigned)u->uid, root,
                 refused[0] ? refused : root, strerror(-r));
    return r;
}

/* The roles load the same text; what "auto" came to must be the same number for all of them. */
static void copy_overrides(struct plan *p, const struct config_cli *cli)
{
    size_t n = 0;

    while (cli->overrides && cli->overrides[n])
        n++;
    p->overrides = mem_zalloc((n + 2) * sizeof(*p->overrides));
    for (size_t i = 0; i < n; i++)
        p->overrides[i] = mem_strdup(cli->overrides[i]);
    p->overrides[n] = mem_printf("server.gateway_threads=%u", p->threads);
}

/* "nobody" when all pools' files are everybody's, else the user of the first pool whose files are
 * not. */
static int decide_gateway_user(struct plan *p, char *message, size_t size)
{
    const struct config *c = p->config;

    for (uint32_t i = 0; i < c->n_pools; i++) {
        const struct pool_plan *pool = &p->pools[i];
        if (user_choose_gateway(&c->server, pool->document_root, &pool->user, &p->gateway_user,
                                message, size) < 0)
            return -EINVAL;
        if (p->gateway_user.uid == pool->user.uid)
            break;
    }
    if (fastcgi_check(c, p->threads, &p->gateway_user, message, size) < 0)
        return -EINVAL;
    for (uint32_t i = 0; i < c->n_pools; i++)
        if (plan_check_readable(&p->gateway_user, "the gateway", p->pools[i].document_root, message,
                                size) < 0)
            return -EINVAL;
    return 0;
}

/* Whose workers are to be chrooted keeps the right to do it. */
static int decide_chroot(const struct config_pool *c, struct pool_plan *pool, char *message,
                         size_t size)
{
    struct stat st;
    char *root = c->chroot.n ? mem_strndup(c->chroot) : NULL;
    int r = 0;

    if (!root)
        return 0;
    if (geteuid() != 0 || stat(root, &st) < 0 || !S_ISDIR(st.st_mode)) {
        snprintf(message, size, "%.*s.chroot: %s: %s", STR_ARG(c->table), root,
                 geteuid() != 0 ? "only a server started as root can change the root folder"
                                : "expected a folder");
        r = -EINVAL;
    } else if (!str_has_prefix(str_from(pool->document_root), c->chroot)) {
        snprintf(message, size,
                 "%.*s.chroot: expected a folder above the document root %s, found %s",
                 STR_ARG(c->table), pool->document_root, root);
        r = -EINVAL;
    }
    pool->user.chroots = r == 0;
    mem_free(root);
    return r;
}

/* An image is of the same files and the same user as its pool. */
static void copy_pool(const struct pool_plan *of, const struct config_pool *c, const struct plan *p,
                      struct pool_plan *ret)
{
    *ret = *of;
    ret->document_root = mem_strdup(of->document_root);
    ret->detected = NULL;
    sizing_geometry(p->config, c, of->workers, p->threads, &ret->geometry);
}

static int decide(struct plan *p, const struct config_cli *cli, char *message, size_t size)
{
    const struct config *c = p->config;
    struct machine machine;

    machine_look(&machine);
    p->threads = sizing_threads(&c->server, &machine);
    p->pools = mem_zalloc(c->n_seats * sizeof(*p->pools));
    for (uint32_t i = 0; i < c->n_pools; i++) {
        struct pool_plan *pool = &p->pools[i];
        if (plan_resolve_root(&c->pools[i], pool, message, size) < 0 ||
            user_choose_pool(&c->pools[i], pool->document_root, &pool->user, message, size) < 0 ||
            decide_chroot(&c->pools[i], pool, message, size) < 0)
            return -EINVAL;
        if (c->pools[i].use_fpm)
            continue; /* PHP-FPM's processes are not ours */
        if (plan_check_readable(&pool->user, "PHP", pool->document_root, message, size) < 0)
            return -EINVAL;
        pool->workers =
            sizing_workers(&c->pools[i], &machine, pool->workers_why, sizeof(pool->workers_why));
        if (pool->workers < 1 || pool->workers > CHANNEL_WORKERS_MAX) {
            snprintf(message, size, "%.*s.worker_pool_size: expected 1 to %d, found %u",
                     STR_ARG(c->pools[i].table), CHANNEL_WORKERS_MAX, pool->workers);
            return -EINVAL;
        }
        sizing_geometry(c, &c->pools[i], pool->workers, p->threads, &pool->geometry);
    }
    for (uint32_t i = c->n_pools; i < c->n_seats; i++)
        copy_pool(&p->pools[c->pools[i].image_of], &c->pools[i], p, &p->pools[i]);
    copy_overrides(p, cli);
    return decide_gateway_user(p, message, size);
}

int plan_new(const struct config_cli *cli, void (*say)(const char *line), struct plan **ret)
{
    struct plan *p = mem_zalloc(sizeof(*p));
    char message[8192];

    p->refs = 1;
    p->base_dir = mem_strdup(cli->base_dir);
    if (config_cli_load(cli, say, &p->source, &p->config) < 0)
        goto fail;
    if (decide(p, cli, message, sizeof(message)) < 0) {
        say(message);
        goto fail;
    }
    *ret = p;
    return 0;
fail:
    plan_unref(p);
    return -EINVAL;
}

struct plan *plan_ref(struct plan *p)
{
    CHECK(p && p->refs > 0);
    p->refs++;
    return p;
}

static void pool_plan_fini(struct pool_plan *p)
{
    mem_free(p->document_root);
    mem_free(p->detected);
}

void plan_unref(struct plan *p)
{
    if (!p)
        return;
    CHECK(p->refs > 0);
    if (--p->refs > 0)
        return;
    if (p->pools)
        for (uint32_t i = 0; i < p->config->n_seats; i++)
            pool_plan_fini(&p->pools[i]);
    mem_free(p->pools);
    mem_free(p->fallbacks);
    config_free(p->config);
    for (char **it = p->overrides; it && *it; it++)
        mem_free(*it);
    mem_free(p->overrides);
    mem_free(p->base_dir);
    config_source_fini(&p->source);
    mem_free(p);
}

int plan_boot(const struct plan *p, uint32_t pool, uint32_t generation,
              const struct image_order *order)
{
    struct control_boot boot = {
        .pool = pool,
        .generation = generation,
        .parent_pid = (int)getpid(),
        .base_dir = p->base_dir,
        .config_name = p->source.name,
        .config_text = p->source.text,
        .config_text_bytes = p->source.text_bytes,
        .overrides = p->overrides,
        .document_root = p->pools[pool].document_root,
    };
    int fd = -1;

    if (order) {
        boot.image_script = order->script;
        boot.image_script_name = order->script_name;
        boot.image_host = order->host;
        boot.image_https = order->https;
        boot.image_address = order->address;
        boot.image_port = order->port;
        boot.image_of_generation = order->of_generation;
    }
    int r = control_boot_pack(&boot, &fd);

    return r < 0 ? r : fd;
}

uint32_t plan_pool_index(const struct plan *p, struct str name)
{
    uint32_t i = 0;

    while (i < p->config->n_seats && !str_eq(p->config->pools[i].name, name))
        i++;
    return i;
}

static bool same_pool_names(const struct plan *a, const struct plan *b)
{
    if (a->config->n_pools != b->config->n_pools)
        return false;
    for (uint32_t i = 0; i < a->config->n_pools; i++)
        if (!str_eq(a->config->pools[i].name, b->config->pools[i].name))
            return false;
    return true;
}

/* Places of the images' seats. */
static bool same_seats(const struct plan *a, const struct plan *b)
{
    if (a->config->n_seats != b->config->n_seats)
        return false;
    for (uint32_t i = a->config->n_pools; i < a->config->n_seats; i++)
        if (!str_eq(a->config->pools[i].name, b->config->pools[i].name))
            return false;
    return true;
}

static bool same_user(const struct user *a, const struct user *b)
{
    return a->change == b->change && a->uid == b->uid && a->gid == b->gid;
}

const char *plan_gateway_difference(const struct plan *a, const struct plan *b)
{
    if (!same_pool_names(a, b))
        return "the list of pools";
    if (!same_seats(a, b))
        return "php.max_images";
    if (a->threads != b->threads)
        return "server.gateway_threads";
    if (!same_user(&a->gateway_user, &b->gateway_user))
        return "server.user";
    return config_difference(a->config, 0, b->config, 0, CONFIG_SCOPE_GATEWAY);
}

bool plan_pool_differs(const struct plan *a, const struct plan *b, uint32_t index)
{
    const struct pool_plan *x = &a->pools[index], *y = &b->pools[index];

    return config_difference(a->config, index, b->config, index, CONFIG_SCOPE_POOL) != NULL ||
           config_difference(a->config, 0, b->config, 0, CONFIG_SCOPE_ROUTING) != NULL ||
           config_routes_differ(a->config, b->config) ||
           strcmp(x->document_root, y->document_root) != 0 || !same_user(&x->user, &y->user) ||
           x->workers != y->workers;
}
