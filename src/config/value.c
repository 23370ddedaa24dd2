/*
 * One TOML value into one field: checks type, form and range, and says what was expected and found.
 * Values of the command line and defaults come the same way.
 */
#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/un.h>

#include "config/config_int.h"

enum { FOUND_BYTES = 96 };

/* ---- messages
 * ------------------------------------------------------------------------------------- */

/* The value as people wrote it, shortened, for "found ...". */
static const char *found(const struct toml_value *v, char out[FOUND_BYTES])
{
    switch (v->type) {
    case TOML_STRING:
        if (v->string.n <= 60)
            snprintf(out, FOUND_BYTES, "\"%.*s\"", STR_ARG(v->string));
        else
            snprintf(out, FOUND_BYTES, "a string of %zu characters", v->string.n);
        break;
    case TOML_INTEGER: snprintf(out, FOUND_BYTES, "%" PRId64, v->integer); break;
    case TOML_BOOLEAN: snprintf(out, FOUND_BYTES, "%s", v->boolean ? "true" : "false"); break;
    case TOML_FLOAT: snprintf(out, FOUND_BYTES, "%g", v->number); break;
    default: snprintf(out, FOUND_BYTES, "%s", toml_type_name(v->type));
    }
    return out;
}

static void expected(struct loader *l, const struct config_key *key, const struct toml_value *v,
                     const char *what)
{
    char text[FOUND_BYTES];

    loader_complain(l, key, v->line, v->column, "expected %s, found %s", what, found(v, text));
}

/* ---- numbers with units
 * --------------------------------------------------------------------------- */

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit size_units[] = {
    { "", 1 },
    { "B", 1 },
    { "K", UINT64_C(1) << 10 },
    { "KB", UINT64_C(1) << 10 },
    { "KiB", UINT64_C(1) << 10 },
    { "M", UINT64_C(1) << 20 },
    { "MB", UINT64_C(1) << 20 },
    { "MiB", UINT64_C(1) << 20 },
    { "G", UINT64_C(1) << 30 },
    { "GB", UINT64_C(1) << 30 },
    { "GiB", UINT64_C(1) << 30 },
    { "T", UINT64_C(1) << 40 },
    { NULL, 0 },
};
static const struct unit time_units[] = {
    { "ms", 1 },          { "s", 1000 },         { "m", 60 * 1000 }, { "min", 60 * 1000 },
    { "h", 3600 * 1000 }, { "d", 86400 * 1000 }, { NULL, 0 },
};

/* "64M" -> 64 << 20. False when it is no number with a unit of the list, or does not fit. */
static bool parse_with_unit(struct str s, const struct unit *units, uint64_t *ret)
{
    size_t digits = 0;
    uint64_t number;

    while (digits < s.n && s.p[digits] >= '0' && s.p[digits] <= '9')
        digits++;
    if (!str_to_u64(str_take(s, digits), UINT64_MAX, &number))
        return false;
    struct str unit = str_trim(str_skip(s, digits));
    for (; units->name; units++)
        if (str_eq_nocase(unit, str_from(units->name)))
            return !__builtin_mul_overflow(number, units->factor, ret);
    return false;
}

void config_format_size(uint64_t bytes, char *out, size_t size)
{
    static const char suffix[] = "KMGT";
    size_t i = 0;

    if (bytes == 0 || bytes % 1024) {
        snprintf(out, size, "%" PRIu64, bytes);
        return;
    }
    for (bytes /= 1024; bytes % 1024 == 0 && i + 1 < sizeof(suffix) - 1; i++)
        bytes /= 1024;
    snprintf(out, size, "%" PRIu64 "%c", bytes, suffix[i]);
}

void config_format_time(uint64_t ms, char *out, size_t size)
{
    if (ms == 0)
        snprintf(out, size, "0");
    else if (ms % 1000)
        snprintf(out, size, "%" PRIu64 "ms", ms);
    else if (ms % 3600000 == 0)
        snprintf(out, size, "%" PRIu64 "h", ms / 3600000);
    else if (ms % 60000 == 0 && ms > 120000)
        snprintf(out, size, "%" PRIu64 "m", ms / 60000);
    else
        snprintf(out, size, "%" PRIu64 "s", ms / 1000);
}

static void format_limit(const struct config_key *key, uint64_t n, char *out, size_t size)
{
    if (key->kind == KIND_SIZE)
        config_format_size(n, out, size);
    else if (key->kind == KIND_TIME)
        config_format_time(n, out, size);
    else
        snprintf(out, size, "%" PRIu64, n);
}

/* Number of any of the numeric kinds; complains and returns false when it is not one or out of
 * range. */
static bool take_number(struct loader *l, const struct config_key *key, const struct toml_value *v,
                        uint64_t *ret)
{
    const char *what = key->kind == KIND_SIZE ? "a size such as \"64M\" or a number of bytes"
                       : key->kind == KIND_TIME
                           ? "a time with its unit such as \"30s\", \"500ms\" or \"2m\""
                       : key->kind == KIND_AUTO ? "\"auto\" or a whole number"
                       : key->kind == KIND_POOL_SIZE
                           ? "\"auto\", a whole number, or { min = ..., max = ... }, the numbers"
                           : "a whole number";
    char text[FOUND_BYTES], low[32], high[32];
    bool ok = false;

    if (v->type == TOML_INTEGER && v->integer >= 0) {
        *ret = (uint64_t)v->integer;
        ok = key->kind != KIND_TIME || v->integer == 0; /* 30 of what? */
    } else if (v->type == TOML_STRING && (key->kind == KIND_SIZE || key->kind == KIND_TIME)) {
        ok = parse_with_unit(v->string, key->kind == KIND_SIZE ? size_units : time_units, ret) ||
             (key->kind == KIND_TIME && str_eq(v->string, STR("0")) && (*ret = 0, true));
    }
    if (!ok) {
        expected(l, key, v, what);
        return false;
    }
    if (*ret >= key->min && (key->max == 0 || *ret <= key->max))
        return true;
    format_limit(key, key->min, low, sizeof(low));
    format_limit(key, key->max, high, sizeof(high));
    loader_complain(l, key, v->line, v->column, "expected %s from %s to %s, found %s", what, low,
                    high, found(v, text));
    return false;
}

/* ---- strings
 * -------------------------------------------------------------------------------------- */

static bool is_choice(const struct config_key *key, struct str s, int *ret_index)
{
    for (int i = 0; key->choices && key->choices[i]; i++)
        if (str_eq(s, str_from(key->choices[i]))) {
            *ret_index = i;
            return true;
        }
    return false;
}

static void expected_choice(struct loader *l, const struct config_key *key,
                            const struct toml_value *v)
{
    char what[160] = "";

    for (size_t i = 0; key->choices[i]; i++) {
        size_t n = strlen(what);
        snprintf(what + n, sizeof(what) - n, "%s\"%s\"",
                 i == 0                ? ""
                 : key->choices[i + 1] ? ", "
                                       : " or ",
                 key->choices[i]);
    }
    expected(l, key, v, what);
}

/* A path goes to the kernel as a C string. */
static bool has_nul(struct str s)
{
    return str_find(s, '\0') >= 0;
}

static void set_text(struct loader *l, const struct config_key *key, const struct toml_value *v,
                     struct str *field)
{
    bool path = key->kind == KIND_PATH || key->kind == KIND_LOG_TARGET;
    int index;

    if (v->type != TOML_STRING) {
        expected(l, key, v, path ? "a path in quotes" : "a string in quotes");
    } else if (has_nul(v->string)) {
        loader_complain(l, key, v->line, v->column, "a NUL character is not allowed here");
    } else if (key->kind == KIND_LOG_TARGET && is_choice(key, v->string, &index)) {
        *field = loader_copy(l, v->string);
    } else if (path && v->string.n == 0) {
        loader_complain(
            l, key, v->line, v->column,
            "expected a path, found an empty string; leave the key out for the default");
    } else if (path) {
        *field = loader_absolute(l, v->string);
    } else {
        *field = loader_copy(l, v->string);
    }
}

static void set_front_controller(struct loader *l, const struct config_key *key,
                                 const struct toml_value *v, struct str *field)
{
    struct str s = v->string;

    if (v->type == TOML_BOOLEAN && !v->boolean) {
        *field = STR("");
        return;
    }
    if (v->type != TOML_STRING || s.n == 0 || has_nul(s)) {
        expected(l, key, v, "the name of a script below document_root, or false");
        return;
    }
    while (s.n && s.p[0] == '/') /* the URL form, "/index.php", means the same */
        s = str_skip(s, 1);
    *field = loader_copy(l, s);
}

/* ---- lists
 * ---------------------------------------------------------------------------------------- */

/* A string or an array of strings; NULL-free array of the strings' values, or false after a
 * complaint. */
static bool take_strings(struct loader *l, const struct config_key *key, const struct toml_value *v,
                         const struct toml_value ***ret, uint32_t *ret_n)
{
    bool one = v->type == TOML_STRING;
    uint32_t n = 0;

    if (!one && v->type != TOML_ARRAY) {
        expected(l, key, v, "a list of strings");
        return false;
    }
    for (const struct toml_value *it = one ? v : v->first; it; it = one ? NULL : it->next)
        n++;
    *ret_n = n;
    *ret = loader_alloc(l, (n + 1) * sizeof(**ret));
    if (!*ret)
        return false;
    n = 0;
    for (const struct toml_value *it = one ? v : v->first; it; it = one ? NULL : it->next) {
        if (it->type != TOML_STRING || has_nul(it->string)) {
            expected(l, key, it, "a string in quotes");
            return false;
        }
        (*ret)[n++] = it;
    }
    return true;
}

/* An address, a network in CIDR notation, or "unix". */
static bool is_peer(struct str s)
{
    char text[64];
    unsigned char bytes[16];
    uint64_t bits;

    if (str_eq(s, STR("unix")))
        return true;
    struct str address = str_cut(&s, '/');
    if (address.n >= sizeof(text))
        return false;
    memcpy(text, address.p, address.n);
    text[address.n] = '\0';
    uint64_t most = inet_pton(AF_INET, text, bytes) == 1    ? 32
                    : inet_pton(AF_INET6, text, bytes) == 1 ? 128
                                                            : 0;
    return most && (!s.p || str_to_u64(s, most, &bits));
}

static void set_strings(struct loader *l, const struct config_key *key, const struct toml_value *v,
                        struct config_strings *field)
{
    const struct toml_value **items;
    struct config_strings result;

    if (!take_strings(l, key, v, &items, &result.n))
        return;
    result.v = loader_alloc(l, (result.n + 1) * sizeof(*result.v));
    if (!result.v)
        return;
    for (uint32_t i = 0; i < result.n; i++) {
        if (key->kind == KIND_PEERS && !is_peer(items[i]->string))
            expected(l, key, items[i], "an address, a network such as \"10.0.0.0/8\", or \"unix\"");
        else if (items[i]->string.n == 0)
            expected(l, key, items[i], "a name");
        result.v[i] = loader_copy(l, items[i]->string);
    }
    *field = result;
}

/* ---- listen addresses
 * ----------------------------------------------------------------------------- */

static bool is_host_name(struct str s)
{
    if (s.n == 0 || s.n > 253 || s.p[0] == '-' || s.p[0] == '.')
        return false;
    for (size_t i = 0; i < s.n; i++) {
        char c = ascii_lower(s.p[i]);
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_'))
            return false;
    }
    return true;
}

/* Only digits and dots: meant as an IPv4 address, so it has to be one ("127.1" is not). */
static bool is_numeric_host(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] != '.' && (s.p[i] < '0' || s.p[i] > '9'))
            return false;
    return true;
}

static bool is_address(int family, struct str s)
{
    char text[64];
    unsigned char bytes[16];

    if (s.n >= sizeof(text))
        return false;
    memcpy(text, s.p, s.n);
    text[s.n] = '\0';
    return inet_pton(family, text, bytes) == 1;
}

/* The host and port of "host:port", without brackets; false when it is not of that form. */
static bool split_host_port(struct str s, struct str *host, struct str *port)
{
    if (s.n && s.p[0] == '[') {
        ptrdiff_t end = str_find(s, ']');
        if (end < 0 || (size_t)end + 1 >= s.n || s.p[end + 1] != ':')
            return false;
        *host = (struct str){ s.p + 1, (size_t)end - 1 };
        *port = str_skip(s, (size_t)end + 2);
        struct str zone = *host;
        return is_address(AF_INET6, str_cut(&zone, '%'));
    }
    ptrdiff_t colon = str_find(s, ':');
    if (colon < 0) {
        *host = STR("127.0.0.1"); /* a port alone exposes nothing that was not said */
        *port = s;
        return true;
    }
    *host = str_take(s, (size_t)colon);
    *port = str_skip(s, (size_t)colon + 1);
    if (host->n == 0)
        *host = STR("*");
    if (str_eq(*host, STR("*")))
        return true;
    return is_numeric_host(*host) ? is_address(AF_INET, *host) : is_host_name(*host);
}

static bool parse_listen(struct loader *l, const struct config_key *key, const struct toml_value *v,
                         struct config_listen *ret)
{
    struct str s = v->string, host, port;
    uint64_t number;

    *ret = (struct config_listen){ .text = loader_copy(l, s) };
    if (str_has_prefix(s, STR("unix:"))) {
        struct str path = str_skip(s, 5);
        if (path.n == 0) {
            expected(l, key, v, "a path after \"unix:\"");
            return false;
        }
        ret->kind = CONFIG_LISTEN_UNIX;
        ret->path = loader_absolute(l, path);
        if (ret->path.n >= sizeof(((struct sockaddr_un *)0)->sun_path)) {
            loader_complain(l, key, v->line, v->column,
                            "the path of a Unix socket has at most %zu bytes, %.*s has %zu",
                            sizeof(((struct sockaddr_un *)0)->sun_path) - 1, STR_ARG(ret->path),
                            ret->path.n);
            return false;
        }
        return true;
    }
    if (!split_host_port(s, &host, &port) || !str_to_u64(port, 65535, &number)) {
        expected(l, key, v,
                 "\"address:port\", \"[IPv6]:port\", \"name:port\", \"*:port\", \"port\" or "
                 "\"unix:/path\" with a port from 0 to 65535");
        return false;
    }
    ret->kind = CONFIG_LISTEN_TCP;
    ret->host = loader_copy(l, host);
    ret->port = (uint16_t)number;
    return true;
}

static bool same_listen(const struct config_listen *a, const struct config_listen *b)
{
    if (a->kind != b->kind)
        return false;
    if (a->kind == CONFIG_LISTEN_UNIX)
        return str_eq(a->path, b->path);
    return a->port != 0 && a->port == b->port && str_eq_nocase(a->host, b->host);
}

static void set_listen(struct loader *l, const struct config_key *key, const struct toml_value *v)
{
    enum { MOST = 64 };
    const struct toml_value **items;
    uint32_t n;

    if (!take_strings(l, key, v, &items, &n))
        return;
    if (n == 0 || n > MOST) {
        loader_complain(l, key, v->line, v->column, "expected 1 to %d addresses, found %u", MOST,
                        n);
        return;
    }
    struct config_listen *list = loader_alloc(l, n * sizeof(*list));
    if (!list)
        return;
    for (uint32_t i = 0; i < n; i++) {
        if (!parse_listen(l, key, items[i], &list[i]))
            continue;
        for (uint32_t j = 0; j < i; j++)
            if (same_listen(&list[i], &list[j]))
                loader_complain(l, key, items[i]->line, items[i]->column,
                                "\"%.*s\" is listed twice", STR_ARG(items[i]->string));
    }
    l->c->server.listen = list;
    l->c->server.n_listen = n;
}

/* ---- FastCGI servers
 * ------------------------------------------------------------------------------ */

/* Where to connect to: as a listen address, but a real one; "/path" is a unix socket too. */
static bool parse_address(struct loader *l, const struct config_key *key,
                          const struct toml_value *v, struct config_listen *ret)
{
    struct toml_value prefixed = *v;

    if (v->type != TOML_STRING || v->string.n == 0 || has_nul(v->string)) {
        expected(l, key, v, "an address: \"host:port\", \"unix:/path\" or \"/path\"");
        return false;
    }
    if (v->string.p[0] == '/') {
        prefixed.string = arena_printf(&l->c->arena, "unix:%.*s", STR_ARG(v->string));
        if (!prefixed.string.p) {
            l->out_of_memory = true;
            return false;
        }
    }
    if (!parse_listen(l, key, &prefixed, ret))
        return false;
    if (ret->kind == CONFIG_LISTEN_TCP && (ret->port == 0 || str_eq(ret->host, STR("*")))) {
        expected(l, key, v, "the host and port of a server to connect to");
        return false;
    }
    return true;
}

/* { address = "...", weight = 1, connections = 0 } */
static bool parse_server_table(struct loader *l, const struct config_key *key,
                               const struct toml_value *v, struct config_fastcgi_server *ret)
{
    static const struct config_key count = { "fastcgi", "servers", KIND_COUNT32, .max = 65535 };
    static const struct config_key weight = { "fastcgi", "servers", KIND_COUNT32, .min = 1,
                                              .max = 1000 };
    bool good = true;
    uint64_t number;

    for (const struct toml_value *it = v->first; it; it = it->next) {
        if (str_eq(it->key, STR("address"))) {
            good &= parse_address(l, key, it, &ret->address);
        } else if (str_eq(it->key, STR("weight"))) {
            if ((good &= take_number(l, &weight, it, &number)))
                ret->weight = (uint32_t)number;
        } else if (str_eq(it->key, STR("connections"))) {
            if ((good &= take_number(l, &count, it, &number)))
                ret->connections = (uint32_t)number;
        } else {
            loader_complain(l, key, it->key_line, it->key_column,
                            "unknown key %.*s; known are address, weight and connections",
                            STR_ARG(it->key));
            good = false;
        }
    }
    if (good && !ret->address.text.n) {
        loader_complain(l, key, v->line, v->column, "a server needs an address");
        good = false;
    }
    return good;
}

static void set_servers(struct loader *l, const struct config_key *key, const struct toml_value *v)
{
    enum { MOST = 64 };
    bool one = v->type == TOML_STRING || v->type == TOML_TABLE;
    uint32_t n = 0;

    if (!one && v->type != TOML_ARRAY) {
        expected(l, key, v, "a list of addresses and tables with an address");
        return;
    }
    for (const struct toml_value *it = one ? v : v->first; it; it = one ? NULL : it->next)
        n++;
    if (n > MOST) {
        loader_complain(l, key, v->line, v->column, "expected at most %d servers, found %u", MOST,
                        n);
        return;
    }
    struct config_fastcgi_server *list = loader_alloc(l, (n + 1) * sizeof(*list));
    if (!list)
        return;
    n = 0;
    for (const struct toml_value *it = one ? v : v->first; it; it = one ? NULL : it->next) {
        struct config_fastcgi_server *s = &list[n++];
        s->weight = 1;
        bool good = it->type == TOML_TABLE ? parse_server_table(l, key, it, s)
                                           : parse_address(l, key, it, &s->address);
        for (uint32_t j = 0; good && j + 1 < n; j++)
            if (list[j].address.text.n && same_listen(&s->address, &list[j].address))
                loader_complain(l, key, it->line, it->column, "\"%.*s\" is listed twice",
                                STR_ARG(s->address.text));
    }
    l->c->fastcgi.servers = list;
    l->c->fastcgi.n_servers = n;
}

/* ---- tables of settings
 * --------------------------------------------------------------------------- */

static bool scalar_text(struct loader *l, const struct toml_value *v, struct str *ret)
{
    char text[48];

    switch (v->type) {
    case TOML_STRING: *ret = loader_copy(l, v->string); return true;
    case TOML_INTEGER: snprintf(text, sizeof(text), "%" PRId64, v->integer); break;
    case TOML_FLOAT: snprintf(text, sizeof(text), "%.15g", v->number); break;
    case TOML_BOOLEAN: snprintf(text, sizeof(text), "%s", v->boolean ? "1" : "0"); break;
    default: return false;
    }
    *ret = loader_copy(l, str_from(text));
    return true;
}

void config_pairs_put(struct loader *l, struct config_pairs *pairs, struct str key,
                      struct str value)
{
    for (uint32_t i = 0; i < pairs->n; i++)
        if (str_eq(pairs->v[i].key, key)) {
            pairs->v[i].value = value;
            return;
        }
    struct config_pair *v = loader_alloc(l, (pairs->n + 1) * sizeof(*v));
    if (!v)
        return;
    if (pairs->n)
        memcpy(v, pairs->v, pairs->n * sizeof(*v));
    v[pairs->n] = (struct config_pair){ key, value };
    pairs->v = v;
    pairs->n++;
}

/* php.ini names have dots, which TOML reads as nested tables: opcache.enable = 1 becomes
 * "opcache.enable". */
static void set_pairs(struct loader *l, const struct config_key *key, const struct toml_value *v,
                      struct str prefix, struct config_pairs *field)
{
    if (v->type != TOML_TABLE) {
        expected(l, key, v, "a table such as { name = \"value\" }");
        return;
    }
    for (const struct toml_value *it = v->first; it; it = it->next) {
        struct str name = it->key, value;
        if (prefix.n) {
            struct str dotted =
                arena_printf(&l->c->arena, "%.*s.%.*s", STR_ARG(prefix), STR_ARG(it->key));
            if (!dotted.p) {
                l->out_of_memory = true;
                return;
            }
            name = dotted;
        }
        if (it->type == TOML_TABLE && key->kind == KIND_PAIRS) {
            set_pairs(l, key, it, name, field);
        } else if (name.n == 0 || has_nul(name) || str_find(name, '=') >= 0 ||
                   str_find(name, '\n') >= 0) {
            loader_complain(l, key, it->key_line, it->key_column,
                            "expected a name without '=', NUL and line ends");
        } else if (!scalar_text(l, it, &value) || has_nul(value)) {
            char text[FOUND_BYTES];
            loader_complain(l, key, it->line, it->column,
                            "%.*s: expected a string, a number, true or false, found %s",
                            STR_ARG(name), found(it, text));
        } else {
            config_pairs_put(l, field, loader_copy(l, name), value);
        }
    }
}

/* ---- all kinds
 * ------------------------------------------------------------------------------------ */

static void set_number(struct loader *l, const struct config_key *key, const struct toml_value *v,
                       void *field)
{
    uint64_t number;

    if (key->kind == KIND_AUTO && v->type == TOML_STRING && str_eq(v->string, STR("auto"))) {
        *(int32_t *)field = CONFIG_AUTO;
        return;
    }
    if (!take_number(l, key, v, &number))
        return;
    if (key->kind == KIND_AUTO)
        *(int32_t *)field = (int32_t)number;
    else if (key->kind == KIND_COUNT32)
        *(uint32_t *)field = (uint32_t)number;
    else
        *(uint64_t *)field = number;
}

/* 8, "auto", or { min = 0, max = 16, spare = 2 } */
static void set_pool_size(struct loader *l, const struct config_key *key,
                          const struct toml_value *v)
{
    static const struct config_key counts = { "php", "worker_pool_size", KIND_COUNT32,
                                              .part = PART_POOL, .max = 1024 };
    int32_t n = CONFIG_AUTO, size[3] = { CONFIG_AUTO, 0, 0 };
    static const char *const names[] = { "max", "min", "spare" };
    uint64_t number;

    if (v->type == TOML_STRING && str_eq(v->string, STR("auto"))) {
        l->pool->worker_pool_size = l->pool->worker_min = CONFIG_AUTO;
        return;
    }
    if (v->type != TOML_TABLE) {
        if (!take_number(l, key, v, &number))
            return;
        n = (int32_t)number;
        l->pool->worker_pool_size = n;
        l->pool->worker_min = CONFIG_AUTO;
        return;
    }
    for (const struct toml_value *it = v->first; it; it = it->next) {
        size_t i = 0;
        while (i < ARRAY_LENGTH(names) && !str_eq(it->key, str_from(names[i])))
            i++;
        bool is_auto = i == 0 && it->type == TOML_STRING && str_eq(it->string, STR("auto"));
        if (i == ARRAY_LENGTH(names)) {
            loader_complain(l, key, it->key_line, it->key_column,
                            "unknown key %.*s; known are min, max and spare", STR_ARG(it->key));
            return;
        }
        if (!is_auto && !take_number(l, i == 0 ? key : &counts, it, &number))
            return;
        if (!is_auto)
            size[i] = (int32_t)number;
    }
    if (size[0] != CONFIG_AUTO && (size[1] > size[0] || size[2] > size[0])) {
        loader_complain(l, key, v->line, v->column,
                        "expected min and spare of at most max (%d), found min = %d, spare = %d",
                        size[0], size[1], size[2]);
        return;
    }
    l->pool->worker_pool_size = size[0];
    l->pool->worker_min = size[1];
    l->pool->worker_spare = size[2];
}

static void set_choice(struct loader *l, const struct config_key *key, const struct toml_value *v,
                       void *field)
{
    int index;

    if (v->type != TOML_STRING || !is_choice(key, v->string, &index))
        expected_choice(l, key, v);
    else if (key->kind == KIND_FORMAT)
        *(int *)field = index;
    else
        *(struct str *)field = loader_copy(l, v->string);
}

void config_set(struct loader *l, const struct config_key *key, const struct toml_value *v)
{
    void *field = key->part == PART_RECORD ? (char *)l->record + key->offset
                                           : config_field(l->c, l->pool, key);

    switch (key->kind) {
    case KIND_BOOLEAN:
        if (v->type == TOML_BOOLEAN)
            *(bool *)field = v->boolean;
        else
            expected(l, key, v, "true or false");
        break;
    case KIND_COUNT32:
    case KIND_COUNT64:
    case KIND_AUTO:
    case KIND_SIZE:
    case KIND_TIME: set_number(l, key, v, field); break;
    case KIND_STRING:
    case KIND_PATH:
    case KIND_LOG_TARGET: set_text(l, key, v, field); break;
    case KIND_FRONT_CONTROLLER: set_front_controller(l, key, v, field); break;
    case KIND_LEVEL:
    case KIND_FORMAT: set_choice(l, key, v, field); break;
    case KIND_STRINGS:
    case KIND_PEERS: set_strings(l, key, v, field); break;
    case KIND_LISTEN: set_listen(l, key, v); break;
    case KIND_PAIRS: set_pairs(l, key, v, STR_NONE, field); break;
    case KIND_ADDRESS: {
        struct config_listen address;
        if (parse_address(l, key, v, &address))
            *(struct config_listen *)field = address;
        break;
    }
    case KIND_SERVERS: set_servers(l, key, v); break;
    case KIND_POOL_SIZE: set_pool_size(l, key, v); break;
    }
}
