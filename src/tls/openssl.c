/*
 * The TLS module: OpenSSL as a client behind the table of tls.h. Built as a shared object of its
 * own; nothing else of sapid is linked with OpenSSL.
 *
 * The socket is reached through a BIO of ours. OpenSSL's own would write() to it, and a server that
 * has gone away would end the process by SIGPIPE.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "tls/tls.h"
#include "version.h"

/* A ticket of TLS 1.3 serves once, so there should be one for each connection that may come. */
enum { SESSIONS_MAX = 64 };
enum { CLIENT_MAGIC = 0x715c11e7, CONN_MAGIC = 0x715c0227, NAME_BYTES_MAX = 255 };

struct tls_client {
    unsigned magic;
    SSL_CTX *context;
    BIO_METHOD *socket;
    char name[NAME_BYTES_MAX + 1];
    bool is_address, insecure;
};

/* The newest last: it is the one that is valid for longest. */
struct tls_sessions {
    SSL_SESSION *held[SESSIONS_MAX];
    size_t n;
};

struct tls_conn {
    unsigned magic;
    SSL *ssl;
    struct tls_sessions **sessions;
    int fd;
    bool wants_write, broken;
    int error; /* errno of the socket; 0: it was closed, or OpenSSL knows more */
    char trouble[TLS_MESSAGE_BYTES];
};

/* --- the socket ------------------------------------------------------------------------------- */

static struct tls_conn *conn_of(BIO *bio)
{
    struct tls_conn *c = BIO_get_data(bio);
    CHECK_MAGIC(c, CONN_MAGIC);
    return c;
}

/* What OpenSSL is told about a send() or recv() that has just returned `done`. */
static int outcome(BIO *bio, ssize_t done, int retry)
{
    BIO_clear_retry_flags(bio);
    if (done >= 0)
        return (int)done;
    if (errno == EAGAIN || errno == EINTR)
        BIO_set_flags(bio, retry | BIO_FLAGS_SHOULD_RETRY);
    else
        conn_of(bio)->error = errno;
    return -1;
}

static int socket_write(BIO *bio, const char *p, int n)
{
    return outcome(bio, send(conn_of(bio)->fd, p, (size_t)n, MSG_NOSIGNAL), BIO_FLAGS_WRITE);
}

static int socket_read(BIO *bio, char *p, int n)
{
    return outcome(bio, recv(conn_of(bio)->fd, p, (size_t)n, 0), BIO_FLAGS_READ);
}

static long socket_control(BIO *bio UNUSED, int command, long number UNUSED, void *p UNUSED)
{
    return command == BIO_CTRL_FLUSH; /* nothing is held back; of the rest nothing is known */
}

static BIO_METHOD *make_socket(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "sapid socket");

    if (m && BIO_meth_set_write(m, socket_write) && BIO_meth_set_read(m, socket_read) &&
        BIO_meth_set_ctrl(m, socket_control))
        return m;
    BIO_meth_free(m);
    return NULL;
}

/* --- what to trust ---------------------------------------------------------------------------- */

/* A server may give several sessions, also long after the handshake. */
static int on_new_session(SSL *ssl, SSL_SESSION *session)
{
    struct tls_conn *c = SSL_get_app_data(ssl);

    CHECK_MAGIC(c, CONN_MAGIC);
    if (!*c->sessions)
        *c->sessions = mem_zalloc(sizeof(**c->sessions));
    struct tls_sessions *s = *c->sessions;
    if (s->n == SESSIONS_MAX) {
        SSL_SESSION_free(s->held[0]);
        memmove(&s->held[0], &s->held[1], --s->n * sizeof(s->held[0]));
    }
    s->held[s->n++] = session;
    return 1; /* the reference is ours */
}

static void use_session(struct tls_conn *c)
{
    struct tls_sessions *s = *c->sessions;

    if (!s || s->n == 0)
        return;
    SSL_SESSION *newest = s->held[s->n - 1];
    SSL_set_session(c->ssl, newest);
    if (SSL_SESSION_get_protocol_version(newest) >= TLS1_3_VERSION) {
        SSL_SESSION_free(newest);
        s->n--;
    }
}

static void drop_sessions(struct tls_sessions *s)
{
    while (s && s->n)
        SSL_SESSION_free(s->held[--s->n]);
}

static void sessions_free(struct tls_sessions *s)
{
    drop_sessions(s);
    mem_free(s);
}

static const char *openssl_reason(void)
{
    unsigned long error = ERR_peek_error();
    const char *reason = ERR_reason_error_string(error);

    if (ERR_GET_REASON(error) == SSL_R_WRONG_VERSION_NUMBER)
        return "what the server sends is not TLS (wrong version number)";
    return reason ? reason : "no reason given";
}

static bool trust(SSL_CTX *context, const char *ca)
{
    struct stat st;

    if (!ca)
        return SSL_CTX_set_default_verify_paths(context) == 1;
    if (stat(ca, &st) == 0 && S_ISDIR(st.st_mode))
        return SSL_CTX_load_verify_dir(context, ca) == 1;
    return SSL_CTX_load_verify_file(context, ca) == 1;
}

static void client_free(struct tls_client *client)
{
    if (!client)
        return;
    CHECK_MAGIC(client, CLIENT_MAGIC);
    SSL_CTX_free(client->context);
    BIO_meth_free(client->socket);
    client->magic = 0;
    mem_free(client);
}

static int client_new(const struct tls_client_options *o, struct tls_client **ret,
                      char message[TLS_MESSAGE_BYTES])
{
    static const unsigned char http11[] = "\x08http/1.1";
    struct tls_client *client = mem_zalloc(sizeof(*client));
    unsigned char address[sizeof(struct in6_addr)];

    client->magic = CLIENT_MAGIC;
    client->insecure = o->insecure;
    snprintf(client->name, sizeof(client->name), "%s", o->server_name);
    client->is_address = inet_pton(AF_INET, client->name, address) == 1 ||
                         inet_pton(AF_INET6, client->name, address) == 1;
    ERR_clear_error();
    client->context = SSL_CTX_new(TLS_client_method());
    client->socket = make_socket();
    if (!client->context || !client->socket) {
        snprintf(message, TLS_MESSAGE_BYTES, "OpenSSL does not start: %s", openssl_reason());
        goto fail;
    }
    if (!o->insecure && !trust(client->context, o->ca)) {
        snprintf(message, TLS_MESSAGE_BYTES,
                 "%s: expected certificates in PEM format of whom to trust: %s",
                 o->ca ? o->ca : "the system's certificates", openssl_reason());
        goto fail;
    }
    SSL_CTX_set_verify(client->context, o->insecure ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_alpn_protos(client->context, http11, sizeof(http11) - 1);
    SSL_CTX_set_session_cache_mode(client->context,
                                   SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(client->context, on_new_session);
    SSL_CTX_set_mode(client->context,
                     SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(client->context, 1); /* head and body of a record with one recv */
    *ret = client;
    return 0;
fail:
    client_free(client);
    return -EINVAL;
}

/* --- one connection --------------------------------------------------------------------------- */

static void conn_free(struct tls_conn *c)
{
    if (!c)
        return;
    CHECK_MAGIC(c, CONN_MAGIC);
    /* Without a farewell OpenSSL would take the session for a bad one. */
    if (c->ssl && !c->broken && SSL_is_init_finished(c->ssl)) {
        ERR_clear_error();
        SSL_shutdown(c->ssl);
    }
    SSL_free(c->ssl);
    c->magic = 0;
    mem_free(c);
}

static bool expect_name(const struct tls_client *client, SSL *ssl)
{
    if (client->is_address)
        return client->insecure ||
               X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), client->name) == 1;
    return SSL_set_tlsext_host_name(ssl, client->name) == 1 &&
           (client->insecure || SSL_set1_host(ssl, client->name) == 1);
}

static int conn_new(struct tls_client *client, int fd, struct tls_sessions **sessions,
                    struct tls_conn **ret)
{
    struct tls_conn *c = mem_zalloc(sizeof(*c));
    BIO *bio = NULL;

    CHECK_MAGIC(client, CLIENT_MAGIC);
    c->magic = CONN_MAGIC;
    c->fd = fd;
    c->sessions = sessions;
    ERR_clear_error();
    c->ssl = SSL_new(client->context);
    if (c->ssl)
        bio = BIO_new(client->socket);
    if (!bio || !expect_name(client, c->ssl)) {
        BIO_free(bio);
        conn_free(c);
        return -ENOMEM;
    }
    BIO_set_data(bio, c);
    BIO_set_init(bio, 1);
    SSL_set_bio(c->ssl, bio, bio);
    SSL_set_app_data(c->ssl, c);
    use_session(c);
    SSL_set_connect_state(c->ssl);
    *ret = c;
    return 0;
}

/* What a call of OpenSSL came to. -EAGAIN, 0 at the announced end, or an error. */
static int judge(struct tls_conn *c, int rc)
{
    int what = SSL_get_error(c->ssl, rc);

    c->wants_write = what == SSL_ERROR_WANT_WRITE;
    if (what == SSL_ERROR_WANT_READ || what == SSL_ERROR_WANT_WRITE)
        return -EAGAIN;
    if (what == SSL_ERROR_ZERO_RETURN)
        return 0;
    c->broken = true;
    long verdict = SSL_get_verify_result(c->ssl);
    if (c->error)
        snprintf(c->trouble, sizeof(c->trouble), "%s", strerror(c->error));
    else if (what == SSL_ERROR_SYSCALL)
        snprintf(c->trouble, sizeof(c->trouble), "closed without notice");
    else if (ERR_GET_REASON(ERR_peek_error()) == SSL_R_CERTIFICATE_VERIFY_FAILED)
        snprintf(c->trouble, sizeof(c->trouble), "certificate: %s",
                 X509_verify_cert_error_string(verdict));
    else
        snprintf(c->trouble, sizeof(c->trouble), "%s", openssl_reason());
    return c->error ? -c->error : -EPROTO;
}

static int handshake(struct tls_conn *c)
{
    CHECK_MAGIC(c, CONN_MAGIC);
    ERR_clear_error();
    int rc = SSL_do_handshake(c->ssl);
    if (rc == 1)
        return 0;
    rc = judge(c, rc);
    if (rc == -EAGAIN)
        return rc;
    if (rc == 0)
        snprintf(c->trouble, sizeof(c->trouble), "closed in the handshake");
    /* Whatever it was, the next attempt shall not fail because of an old session. */
    drop_sessions(*c->sessions);
    return -EPROTO;
}

static ssize_t conn_recv(struct tls_conn *c, void *p, size_t n)
{
    CHECK_MAGIC(c, CONN_MAGIC);
    size_t done = 0;
    c->wants_write = false;
    ERR_clear_error();
    int rc = SSL_read_ex(c->ssl, p, n, &done);
    return rc == 1 ? (ssize_t)done : judge(c, rc);
}

static bool has_bytes(const struct tls_conn *c)
{
    return SSL_has_pending(c->ssl) == 1;
}

static ssize_t conn_send(struct tls_conn *c, const void *p, size_t n)
{
    CHECK_MAGIC(c, CONN_MAGIC);
    size_t done = 0;
    c->wants_write = false;
    ERR_clear_error();
    int rc = SSL_write_ex(c->ssl, p, n, &done);
    if (rc == 1)
        return (ssize_t)done;
    rc = judge(c, rc);
    return rc == 0 ? -EPIPE : rc;
}

static bool wants_write(const struct tls_conn *c)
{
    return c->wants_write;
}

static const char *trouble(const struct tls_conn *c)
{
    return c->trouble;
}

static bool resumed(const struct tls_conn *c)
{
    return SSL_session_reused(c->ssl) == 1;
}

static void describe(const struct tls_conn *c, char *ret, size_t size)
{
    snprintf(ret, size, "%s, %s", SSL_get_version(c->ssl),
             SSL_CIPHER_get_name(SSL_get_current_cipher(c->ssl)));
}

extern const struct tls_module sapid_tls;
__attribute__((visibility("default"))) const struct tls_module sapid_tls = {
    .abi = TLS_ABI,
    .build = SAPID_VERSION,
    .client_new = client_new,
    .client_free = client_free,
    .conn_new = conn_new,
    .handshake = handshake,
    .recv = conn_recv,
    .has_bytes = has_bytes,
    .send = conn_send,
    .wants_write = wants_write,
    .trouble = trouble,
    .resumed = resumed,
    .describe = describe,
    .conn_free = conn_free,
    .sessions_free = sessions_free,
};
