/*
 * Control messages and the boot text: see control.h. A message is the fixed head of struct
 * control_message and as much text as it says; anything else is refused with -EPROTO.
 */
#include "channel/control.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/mem.h"

enum { HEAD_BYTES = offsetof(struct control_message, text), BOOT_BYTES_MAX = 16 << 20 };

/* --- messages --------------------------------------------------------------------------------- */
void control_message_init(struct control_message *m, enum control_type type)
{
    /* The text is written only as far as it is used. */
    memset(m, 0, HEAD_BYTES);
    m->type = type;
}

void control_message_set_text(struct control_message *m, struct str text)
{
    text = str_take(text, CONTROL_TEXT_MAX);
    m->text_bytes = (uint32_t)text.n;
    if (text.n)
        memcpy(m->text, text.p, text.n);
}

struct str control_message_text(const struct control_message *m)
{
    CHECK(m->text_bytes <= CONTROL_TEXT_MAX);
    return (struct str){ m->text, m->text_bytes };
}

int control_send(int sock, const struct control_message *m, const int *fds, size_t n_fds)
{
    CHECK(m->type >= CONTROL_READY && m->type <= CONTROL_LAST);
    CHECK(m->text_bytes <= CONTROL_TEXT_MAX);
    return fd_send(sock, m, HEAD_BYTES + m->text_bytes, fds, n_fds);
}

int control_receive(int sock, struct control_message *ret, int *ret_fds, size_t max_fds,
                    size_t *ret_n_fds)
{
    size_t n_fds = 0;
    ssize_t n = fd_receive(sock, ret, sizeof(*ret), ret_fds, max_fds, &n_fds);

    if (n == 0)
        return 0;
    if (n == -EMSGSIZE)
        return -EPROTO;
    if (n < 0)
        return (int)n;
    if (n < HEAD_BYTES || ret->type < CONTROL_READY || ret->type > CONTROL_LAST ||
        ret->text_bytes > CONTROL_TEXT_MAX || (size_t)n != HEAD_BYTES + ret->text_bytes) {
        for (size_t i = 0; i < n_fds; i++)
            fd_close(&ret_fds[i]);
        return -EPROTO;
    }
    if (ret_n_fds)
        *ret_n_fds = n_fds;
    return 1;
}

/* --- IMAGE_WANTED ----------------------------------------------------------------------------- */
static bool take_string(struct str *rest, struct str *ret)
{
    ptrdiff_t end = str_find(*rest, '\0');

    if (end < 0)
        return false;
    *ret = str_take(*rest, (size_t)end);
    *rest = str_skip(*rest, (size_t)end + 1);
    return true;
}

bool control_image_pack(struct control_message *m, const struct control_image *image)
{
    char port[8];
    const struct str texts[] = { image->script,
                                 image->script_name,
                                 image->host,
                                 image->https ? STR("https") : STR("http"),
                                 { port, (size_t)snprintf(port, sizeof(port), "%u", image->port) },
                                 image->address };
    uint32_t at = 0;

    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++) {
        if (texts[i].n >= CONTROL_TEXT_MAX - at || str_find(texts[i], '\0') >= 0)
            return false;
        if (texts[i].n)
            memcpy(m->text + at, texts[i].p, texts[i].n);
        at += (uint32_t)texts[i].n;
        m->text[at++] = '\0';
    }
    m->text_bytes = at;
    return true;
}

bool control_image_unpack(const struct control_message *m, struct control_image *ret)
{
    struct str rest = control_message_text(m), scheme, port;
    uint64_t n;

    if (!take_string(&rest, &ret->script) || !take_string(&rest, &ret->script_name) ||
        !take_string(&rest, &ret->host) || !take_string(&rest, &scheme) ||
        !take_string(&rest, &port) || !take_string(&rest, &ret->address) || rest.n ||
        !str_to_u64(port, UINT16_MAX, &n))
        return false;
    ret->port = (uint16_t)n;
    ret->https = str_eq(scheme, STR("https"));
    return ret->https || str_eq(scheme, STR("http"));
}

/* --- boot ------------------------------------------------------------------------------------- */
/* Records "key=value" NUL. Values are C strings but the configuration's text, which may hold
 * anything: its length stands in a record of its own before it. */
static int put_number(struct buf *b, const char *key, int64_t value)
{
    int r = buf_printf(b, "%s=%lld", key, (long long)value);
    return r < 0 ? r : buf_append(b, "", 1);
}

static int put_bytes(struct buf *b, const char *key, const char *value, size_t n)
{
    int r = buf_printf(b, "%s=", key);
    if (r >= 0 && n)
        r = buf_append(b, value, n);
    return r < 0 ? r : buf_append(b, "", 1);
}

static int put_string(struct buf *b, const char *key, const char *value)
{
    return value ? put_bytes(b, key, value, strlen(value)) : 0;
}

int control_boot_pack(const struct control_boot *boot, int *ret_fd)
{
    struct buf b;
    int r;

    buf_init(&b, BOOT_BYTES_MAX);
    if ((r = put_number(&b, "pool", boot->pool)) < 0 ||
        (r = put_number(&b, "generation", boot->generation)) < 0 ||
        (r = put_number(&b, "parent_pid", boot->parent_pid)) < 0 ||
        (r = put_number(&b, "config_text_bytes", (int64_t)boot->config_text_bytes)) < 0 ||
        (r = put_bytes(&b, "config_text", boot->config_text, boot->config_text_bytes)) < 0)
        goto out;
    if ((r = put_string(&b, "base_dir", boot->base_dir)) < 0 ||
        (r = put_string(&b, "config_name", boot->config_name)) < 0 ||
        (r = put_string(&b, "document_root", boot->document_root)) < 0)
        goto out;
    if (boot->image_script &&
        ((r = put_string(&b, "image_script", boot->image_script)) < 0 ||
         (r = put_string(&b, "image_script_name", boot->image_script_name)) < 0 ||
         (r = put_string(&b, "image_host", boot->image_host)) < 0 ||
         (r = put_string(&b, "image_address", boot->image_address)) < 0 ||
         (r = put_number(&b, "image_port", boot->image_port)) < 0 ||
         (r = put_number(&b, "image_https", boot->image_https)) < 0 ||
         (r = put_number(&b, "image_of_generation", boot->image_of_generation)) < 0))
        goto out;
    for (char **o = boot->overrides; o && *o; o++)
        if ((r = put_bytes(&b, "override", *o, strlen(*o))) < 0)
            goto out;
    r = fd_sealed_memory("sapid-boot", buf_view(&b));
    if (r >= 0) {
        *ret_fd = r;
        r = 0;
    }
out:
    buf_fini(&b);
    return r;
}

static bool is_image_record(struct control_boot *b, struct str key, struct str value)
{
    uint64_t n;

    if (str_eq(key, STR("image_script")) && !b->image_script)
        b->image_script = mem_strndup(value);
    else if (str_eq(key, STR("image_script_name")) && !b->image_script_name)
        b->image_script_name = mem_strndup(value);
    else if (str_eq(key, STR("image_host")) && !b->image_host)
        b->image_host = mem_strndup(value);
    else if (str_eq(key, STR("image_address")) && !b->image_address)
        b->image_address = mem_strndup(value);
    else if (str_eq(key, STR("image_port")) && str_to_u64(value, UINT16_MAX, &n))
        b->image_port = (uint16_t)n;
    else if (str_eq(key, STR("image_https")) && str_to_u64(value, 1, &n))
        b->image_https = n;
    else if (str_eq(key, STR("image_of_generation")) && str_to_u64(value, UINT32_MAX, &n))
        b->image_of_generation = (uint32_t)n;
    else
        return false;
    return true;
}

static void add_override(struct control_boot *b, size_t *n, struct str value)
{
    b->overrides = mem_realloc(b->overrides, (*n + 2) * sizeof(char *));
    b->overrides[(*n)++] = mem_strndup(value);
    b->overrides[*n] = NULL;
}

/* One record; false when it is not one of ours. */
static bool take_record(struct control_boot *b, struct str key, struct str value,
                        size_t *n_overrides)
{
    uint64_t n;

    if (str_eq(key, STR("pool")) && str_to_u64(value, UINT32_MAX, &n))
        b->pool = (uint32_t)n;
    else if (str_eq(key, STR("generation")) && str_to_u64(value, UINT32_MAX, &n))
        b->generation = (uint32_t)n;
    else if (str_eq(key, STR("parent_pid")) && str_to_u64(value, INT32_MAX, &n))
        b->parent_pid = (int)n;
    else if (str_eq(key, STR("config_text_bytes")) && str_to_u64(value, BOOT_BYTES_MAX, &n))
        b->config_text_bytes = (size_t)n;
    else if (str_eq(key, STR("base_dir")) && !b->base_dir)
        b->base_dir = mem_strndup(value);
    else if (str_eq(key, STR("config_name")) && !b->config_name)
        b->config_name = mem_strndup(value);
    else if (str_eq(key, STR("document_root")) && !b->document_root)
        b->document_root = mem_strndup(value);
    else if (str_eq(key, STR("config_text")) && !b->config_text)
        b->config_text = mem_strndup(value);
    else if (str_eq(key, STR("override")))
        add_override(b, n_overrides, value);
    else
        return is_image_record(b, key, value);
    return true;
}

static bool parse_boot(struct control_boot *b, struct str rest)
{
    size_t n_overrides = 0;

    b->overrides = mem_zalloc(sizeof(char *));
    while (rest.n) {
        ptrdiff_t equals = str_find(rest, '=');
        if (equals < 0)
            return false;
        struct str key = str_take(rest, (size_t)equals);
        rest = str_skip(rest, (size_t)equals + 1);
        ptrdiff_t end = str_eq(key, STR("config_text")) ? (ptrdiff_t)b->config_text_bytes
                                                        : str_find(rest, '\0');
        if (end < 0 || (size_t)end >= rest.n || rest.p[end] != '\0')
            return false;
        if (!take_record(b, key, str_take(rest, (size_t)end), &n_overrides))
            return false;
        rest = str_skip(rest, (size_t)end + 1);
    }
    return b->config_text && !b->image_script == !b->image_script_name &&
           !b->image_script == !b->image_host;
}

int control_boot_unpack(int fd, struct control_boot *ret)
{
    struct control_boot b = { 0 };
    char *text;
    size_t n;

    if (lseek(fd, 0, SEEK_SET) < 0)
        return -errno;
    int r = fd_read_all(fd, BOOT_BYTES_MAX, &text, &n);
    if (r < 0)
        return r;
    bool good = parse_boot(&b, (struct str){ text, n });
    mem_free(text);
    if (!good) {
        control_boot_fini(&b);
        return -EPROTO;
    }
    *ret = b;
    return 0;
}

void control_boot_fini(struct control_boot *b)
{
    mem_free(b->base_dir);
    mem_free(b->config_name);
    mem_free(b->config_text);
    mem_free(b->document_root);
    mem_free(b->image_script);
    mem_free(b->image_script_name);
    mem_free(b->image_host);
    mem_free(b->image_address);
    for (char **o = b->overrides; o && *o; o++)
        mem_free(*o);
    mem_free(b->overrides);
    *b = (struct control_boot){ 0 };
}

void control_die_with_parent(int parent_pid, int signo)
{
    CHECK(prctl(PR_SET_PDEATHSIG, signo) == 0);
    /* The parent may have died before the call: nobody would tell us. */
    if (getppid() != parent_pid)
        _exit(0);
}
