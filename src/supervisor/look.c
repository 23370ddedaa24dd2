/*
 * One pool looked at without starting anything, for `sapid doctor`: what plan.c decides for all of
 * them and refuses at the first fault is said here for each by itself.
 */
#include <stdio.h>

#include "base/mem.h"
#include "supervisor/supervisor.h"
#include "supervisor/supervisor_int.h"

struct look {
    const struct config *c;
    const struct config_pool *pool;
    supervisor_say *say;
    void *ctx;
    char message[8192];
};

static void say_user(struct look *l, const char *who, const struct user *u)
{
    snprintf(l->message, sizeof(l->message), "%s as user %s (uid %u)%s%s", who,
             u->name[0] ? u->name : "without a name", (unsigned)u->uid, u->why[0] ? ": " : "",
             u->why);
    l->say(l->ctx, true, true, l->message);
}

static bool may_read(struct look *l, const struct user *u, const char *who, const char *root)
{
    if (plan_check_readable(u, who, root, l->message, sizeof(l->message)) == 0)
        return true;
    l->say(l->ctx, false, true, l->message);
    return false;
}

/* The gateway's user and its way to the pool's FastCGI servers. */
static void look_at_gateway(struct look *l, const struct pool_plan *p)
{
    struct config only = *l->c;
    struct machine machine;
    struct user gateway = { 0 };

    machine_look(&machine);
    only.pools = (struct config_pool *)l->pool; /* as if it were the only one */
    only.n_pools = 1;
    if (user_choose_gateway(&l->c->server, p->document_root, &p->user, &gateway, l->message,
                            sizeof(l->message)) < 0 ||
        fastcgi_check(&only, sizing_threads(&l->c->server, &machine), &gateway, l->message,
                      sizeof(l->message)) < 0)
        l->say(l->ctx, false, true, l->message);
    else if (may_read(l, &gateway, "the gateway", p->document_root))
        say_user(l, "the gateway serves its files", &gateway);
}

static void look_at_pool(struct look *l, struct pool_plan *p)
{
    if (plan_resolve_root(l->pool, p, l->message, sizeof(l->message)) < 0) {
        l->say(l->ctx, false, l->pool->document_root_given, l->message);
        return;
    }
    if (p->detected)
        snprintf(l->message, sizeof(l->message), "%s", p->detected);
    else
        snprintf(l->message, sizeof(l->message), "document root %s", p->document_root);
    l->say(l->ctx, true, true, l->message);
    if (user_choose_pool(l->pool, p->document_root, &p->user, l->message, sizeof(l->message)) < 0) {
        l->say(l->ctx, false, true, l->message);
        return;
    }
    if (!l->pool->use_fpm && may_read(l, &p->user, "PHP", p->document_root))
        say_user(l, "PHP runs", &p->user);
    look_at_gateway(l, p);
}

void supervisor_look_at_pool(const struct config *c, uint32_t pool, supervisor_say *say, void *ctx)
{
    struct look *l = mem_zalloc(sizeof(*l));
    struct pool_plan p = { 0 };

    *l = (struct look){ .c = c, .pool = &c->pools[pool], .say = say, .ctx = ctx };
    look_at_pool(l, &p);
    mem_free(p.document_root);
    mem_free(p.detected);
    mem_free(l);
}

int supervisor_become_pool_user(const struct config_pool *pool, const char *document_root,
                                char *message, size_t message_size)
{
    struct user u;
    int rc = user_choose_pool(pool, document_root, &u, message, message_size);

    if (rc < 0)
        return rc;
    rc = user_become(&u);
    if (rc < 0)
        snprintf(message, message_size, "cannot become user %s (uid %u) of %.*s: %s",
                 u.name[0] ? u.name : "without a name", (unsigned)u.uid, STR_ARG(pool->table),
                 strerror(-rc));
    return rc;
}
