/*
 * What the boot opens through PHP's streams, whoever asks: files, whatever function or extension
 * opens them, php://input, URLs, and the sockets that streams are made of (mysqlnd and phpredis
 * connect by them, too). The operations of the wrappers are replaced in this process.
 */
#include "php/engine/audit_int.h"

#include <stdlib.h>

static const php_stream_wrapper_ops *plain; /* of files, as it was */
static php_stream_wrapper_ops noted_plain;

static bool is_for_reading(const char *mode)
{
    return mode[0] == 'r' && !strchr(mode, '+');
}

static php_stream *open_file(php_stream_wrapper *wrapper, const char *filename, const char *mode,
                             int options, zend_string **opened_path,
                             php_stream_context *context STREAMS_DC)
{
    if (!(options & STREAM_OPEN_FOR_INCLUDE))
        audit_note(is_for_reading(mode) ? AUDIT_OPENED : AUDIT_WRITTEN, str_from(filename),
                   is_for_reading(mode) ? STR_NONE : str_from(mode));
    return plain->stream_opener(wrapper, filename, mode, options, opened_path,
                                context STREAMS_REL_CC);
}

static php_stream *open_folder(php_stream_wrapper *wrapper, const char *filename, const char *mode,
                               int options, zend_string **opened_path,
                               php_stream_context *context STREAMS_DC)
{
    audit_note(AUDIT_OPENED, str_from(filename), STR("folder"));
    return plain->dir_opener(wrapper, filename, mode, options, opened_path, context STREAMS_REL_CC);
}

static int delete_file(php_stream_wrapper *wrapper, const char *url, int options,
                       php_stream_context *context)
{
    audit_note(AUDIT_WRITTEN, str_from(url), STR("deleted"));
    return plain->unlink(wrapper, url, options, context);
}

static int rename_file(php_stream_wrapper *wrapper, const char *from, const char *to, int options,
                       php_stream_context *context)
{
    audit_note(AUDIT_WRITTEN, str_from(to), STR("renamed"));
    return plain->rename(wrapper, from, to, options, context);
}

static int make_folder(php_stream_wrapper *wrapper, const char *url, int mode, int options,
                       php_stream_context *context)
{
    audit_note(AUDIT_WRITTEN, str_from(url), STR("folder made"));
    return plain->stream_mkdir(wrapper, url, mode, options, context);
}

static int delete_folder(php_stream_wrapper *wrapper, const char *url, int options,
                         php_stream_context *context)
{
    audit_note(AUDIT_WRITTEN, str_from(url), STR("folder deleted"));
    return plain->stream_rmdir(wrapper, url, options, context);
}

static int change_file(php_stream_wrapper *wrapper, const char *url, int options, void *value,
                       php_stream_context *context)
{
    audit_note(AUDIT_WRITTEN, str_from(url), STR("changed"));
    return plain->stream_metadata(wrapper, url, options, value, context);
}

static void note_files(void)
{
    plain = php_plain_files_wrapper.wops;
    noted_plain = *plain;
    noted_plain.stream_opener = open_file;
    noted_plain.dir_opener = open_folder;
    noted_plain.unlink = delete_file;
    noted_plain.rename = rename_file;
    noted_plain.stream_mkdir = make_folder;
    noted_plain.stream_rmdir = delete_folder;
    noted_plain.stream_metadata = change_file;
    php_plain_files_wrapper.wops = &noted_plain;
}

/* --- URLs ------------------------------------------------------------------------------------- */

enum { WRAPPERS_MAX = 32 };

/* A wrapper with our opener; `of` leads back to the real one. */
static struct noted {
    php_stream_wrapper wrapper; /* first: what PHP hands to the opener */
    php_stream_wrapper_ops ops;
    const php_stream_wrapper *of;
} noted[WRAPPERS_MAX];

static php_stream *open_url(php_stream_wrapper *wrapper, const char *url, const char *mode,
                            int options, zend_string **opened_path,
                            php_stream_context *context STREAMS_DC)
{
    const struct noted *n = (const struct noted *)(const void *)wrapper;
    struct str text = str_from(url);

    if (str_has_prefix(text, STR("php://input")))
        audit_read_all(AUDIT_INPUT);
    else if (n->of->is_url && !str_has_prefix(text, STR("data:")))
        audit_note(AUDIT_CONNECTED, text, STR_NONE);
    else if (!is_for_reading(mode) && str_has_prefix(text, STR("php://output")))
        audit_note(AUDIT_OUTPUT, text, STR_NONE);
    return n->of->wops->stream_opener((php_stream_wrapper *)(uintptr_t)n->of, url, mode, options,
                                      opened_path, context STREAMS_REL_CC);
}

/* Those of PHP itself: a wrapper written in PHP, or one that keeps state in itself, stays. */
static void note_urls(void)
{
    HashTable *wrappers = php_stream_get_url_stream_wrappers_hash_global();
    static const char *const names[] = { "php", "http", "https", "ftp", "ftps" };

    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        zval *slot = zend_hash_str_find(wrappers, names[i], strlen(names[i]));
        if (!slot)
            continue;
        noted[i].of = Z_PTR_P(slot);
        noted[i].ops = *noted[i].of->wops;
        noted[i].ops.stream_opener = open_url;
        noted[i].wrapper = *noted[i].of;
        noted[i].wrapper.wops = &noted[i].ops;
        Z_PTR_P(slot) = &noted[i].wrapper;
    }
}

/* --- sockets ---------------------------------------------------------------------------------- */

enum { TRANSPORTS_MAX = 32 };

static struct {
    char name[16];
    php_stream_transport_factory make;
} transports[TRANSPORTS_MAX];
static uint32_t n_transports;

static php_stream *make_socket(const char *proto, size_t proto_n, const char *resource,
                               size_t resource_n, const char *persistent_id, int options, int flags,
                               struct timeval *timeout, php_stream_context *context STREAMS_DC)
{
    char text[512];

    snprintf(text, sizeof(text), "%.*s://%.*s", (int)proto_n, proto, (int)resource_n, resource);
    audit_note(AUDIT_CONNECTED, str_from(text), STR_NONE);
    for (uint32_t i = 0; i < n_transports; i++)
        if (strlen(transports[i].name) == proto_n &&
            memcmp(transports[i].name, proto, proto_n) == 0)
            return transports[i].make(proto, proto_n, resource, resource_n, persistent_id, options,
                                      flags, timeout, context STREAMS_REL_CC);
    return NULL;
}

static void note_sockets(void)
{
    zend_string *name;
    zval *slot;

    ZEND_HASH_FOREACH_STR_KEY_VAL(php_stream_xport_get_hash(), name, slot)
    {
        if (!name || n_transports == TRANSPORTS_MAX || ZSTR_LEN(name) >= sizeof(transports[0].name))
            continue;
        memcpy(transports[n_transports].name, ZSTR_VAL(name), ZSTR_LEN(name) + 1);
        transports[n_transports++].make = Z_PTR_P(slot);
        Z_PTR_P(slot) = (void *)make_socket;
    }
    ZEND_HASH_FOREACH_END();
}

void audit_streams_install(void)
{
    note_files();
    note_urls();
    note_sockets();
}
