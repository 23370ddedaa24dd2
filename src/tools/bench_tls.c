/* TLS of `sapid bench`: whom to trust, and the handshakes of its connections. */
#include <errno.h>

#include "base/mem.h"
#include "tools/bench_int.h"

struct str bench_split_authority(struct str authority, struct str *ret_port)
{
    struct str rest = authority, host;

    if (str_has_prefix(rest, STR("["))) {
        host = str_cut(&rest, ']');
        host = str_skip(host, 1);
        rest = str_skip(rest, 1);
    } else {
        host = str_cut(&rest, ':');
    }
    *ret_port = rest;
    return host;
}

int bench_tls_open(struct bench_options *o, char **ret_message)
{
    struct str port;
    char *name = mem_strndup(bench_split_authority(str_from(o->authority), &port));
    struct tls_client_options of = { .ca = o->ca_path,
                                     .server_name = name,
                                     .insecure = o->insecure };
    char message[TLS_MESSAGE_BYTES];

    o->tls = tls_load(message);
    int rc = o->tls ? o->tls->client_new(&of, &o->tls_client, message) : -ENOENT;
    mem_free(name);
    if (rc == 0)
        return 0;
    *ret_message = mem_strdup(message);
    return -EINVAL;
}

void bench_tls_close(struct bench_options *o)
{
    if (o->tls)
        o->tls->client_free(o->tls_client);
    o->tls_client = NULL;
}

int bench_tls_shake(struct bench_conn *c)
{
    struct bench_thread *t = c->thread;
    const struct bench_options *o = t->options;
    struct bench_result *r = t->result;
    int rc = 0;

    if (!c->tls)
        rc = o->tls->conn_new(o->tls_client, c->watch.fd, &t->sessions, &c->tls);
    if (rc == 0)
        rc = o->tls->handshake(c->tls);
    if (rc < 0)
        return rc;
    r->handshakes++;
    r->resumed += o->tls->resumed(c->tls);
    if (!r->tls[0])
        o->tls->describe(c->tls, r->tls, sizeof(r->tls));
    return 0;
}

void bench_tls_drop(struct bench_conn *c)
{
    c->thread->options->tls->conn_free(c->tls);
    c->tls = NULL;
}
