/*
 * X-Sendfile and X-Accel-Redirect: a script names a file, and the server sends it, with ranges and
 * conditions, while the worker is free. The file is opened here, with the rights of the pool's user
 * and only beneath the pool's sendfile_roots; what the gateway gets is its descriptor, on the
 * worker's socket, right before a head of type CHANNEL_FILE in the ring.
 *
 * X-Sendfile has a path (Apache's mod_xsendfile, lighttpd); X-Accel-Redirect a URL path, which
 * accel_locations turn into one (nginx's internal locations).
 */
#include "php/engine/engine_int.h"

#include <errno.h>

#include "base/beneath.h"
#include "base/fd.h"
#include "channel/control.h"

static const struct engine_worker *settings;

void sendfile_worker_start(const struct engine_worker *w)
{
    settings = w;
}

bool sendfile_is_on(void)
{
    return settings && settings->n_sendfile_roots > 0;
}

static struct str value_of(const sapi_header_struct *h, struct str name_and_colon)
{
    if (h->header_len < name_and_colon.n ||
        !str_eq_nocase((struct str){ h->header, name_and_colon.n }, name_and_colon))
        return STR_NONE;
    return str_trim(str_skip((struct str){ h->header, h->header_len }, name_and_colon.n));
}

/* The folder of the longest location that the URL begins with, and what follows, decoded. */
static struct str locate(struct str url, char *out, size_t size)
{
    const struct engine_setting *best = NULL;

    for (size_t i = 0; i < settings->n_accel_locations; i++) {
        const struct engine_setting *one = &settings->accel_locations[i];
        if (str_has_prefix(url, str_from(one->name)) &&
            (!best || strlen(one->name) > strlen(best->name)))
            best = one;
    }
    return best ? beneath_from_url(str_from(best->value), str_skip(url, strlen(best->name)), out,
                                   size)
                : STR_NONE;
}

/* Which file the headers ask for; p == NULL: none. */
static bool wanted(sapi_headers_struct *headers, char *buffer, size_t size, struct str *ret)
{
    zend_llist_position at;

    for (sapi_header_struct *h = zend_llist_get_first_ex(&headers->headers, &at); h;
         h = zend_llist_get_next_ex(&headers->headers, &at)) {
        struct str path = value_of(h, STR("X-Sendfile:")), url;
        if (path.n) {
            *ret = path;
            return true;
        }
        url = value_of(h, STR("X-Accel-Redirect:"));
        if (url.n) {
            *ret = locate(url, buffer, size);
            if (!ret->p)
                log_error("request %.*s: X-Accel-Redirect: %.*s begins with none of "
                          "accel_locations",
                          STR_ARG(request.view.request_id), STR_ARG(url));
            return true;
        }
    }
    return false;
}

static int hand_over(int fd)
{
    struct control_message m;

    control_message_init(&m, CONTROL_FILE);
    m.ticket = channel_worker_ticket(request.worker);
    return body_send_control(&m, fd);
}

enum sendfile sendfile_take(sapi_headers_struct *headers, uint16_t *ret_status)
{
    char buffer[MAXPATHLEN];
    struct str path;

    if (!sendfile_is_on() || !request.worker || !wanted(headers, buffer, sizeof(buffer), &path))
        return SENDFILE_NONE;
    int fd = path.p ? beneath_open(settings->sendfile_roots, settings->n_sendfile_roots, path)
                    : -ENOENT;
    int rc = fd < 0 ? fd : hand_over(fd);
    fd_close(&fd);
    if (rc == 0)
        return SENDFILE_HANDED;
    if (path.p)
        log_error("request %.*s: %.*s cannot be sent: %s%s", STR_ARG(request.view.request_id),
                  STR_ARG(path), strerror(-rc),
                  rc == -EACCES
                      ? " (it must lie beneath sendfile_roots, also behind its links, and be "
                        "readable for the pool's user)"
                      : "");
    *ret_status = rc == -EACCES                                                             ? 403
                  : rc == -ENOENT || rc == -EISDIR || rc == -ENOTDIR || rc == -ENAMETOOLONG ? 404
                                                                                            : 500;
    return SENDFILE_REFUSED;
}
