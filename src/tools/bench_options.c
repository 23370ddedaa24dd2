/*
 * What `sapid bench` is asked for: the command line, a file of URLs, and the requests made of them.
 * Each request is built once, and read back by the server's own strict parser: a header or URL that
 * no server should accept is refused here, with a reason, and not counted as 100 % errors later.
 */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "tools/bench_int.h"

enum {
    THREADS_MAX = 256,
    CONNECTIONS_MAX = 1000000,
    FILE_BYTES_MAX = 64 << 20,
    PROBE_SECONDS = 1,
};

const char bench_help[] =
    "sapid bench URL [OPTIONS]: load a server and measure how it answers\n"
    "\n"
    "  --url URL            the same as URL; http://HOST[:PORT]/PATH, or https://\n"
    "  --urls FILE          one URL a line, each as [WEIGHT] [METHOD] URL\n"
    "  --unix PATH          connect to this socket; the URL still gives Host and path\n"
    "  --cacert FILE        trust these certificates (PEM; a file or a folder), not the system's\n"
    "  --insecure           take any certificate\n"
    "load:\n"
    "  --rps N              start N requests a second, whatever the server does (open loop);\n"
    "                       without this each connection asks again when it has its answer\n"
    "  --poisson            random gaps, as of independent visitors (with --rps)\n"
    "  --concurrency N      connections (10)\n"
    "  --threads N          threads (1)\n"
    "  --duration TIME      how long to measure (10s); 500ms, 30s, 5m, 1h\n"
    "  --requests N         stop after N requests\n"
    "  --warmup TIME        load without measuring first (0)\n"
    "  --timeout TIME       limit of a request, to start and again to be answered (10s)\n"
    "  --no-keepalive       a new connection for every request\n"
    "request:\n"
    "  --method NAME        GET, or POST with a body\n"
    "  --header TEXT        \"Name: value\"; repeatable\n"
    "  --body TEXT, --body-file FILE\n"
    "answer:\n"
    "  --expect-status N    the only right status (else any below 400)\n"
    "  --expect-length N, --expect-sha256 HEX, --expect-text TEXT\n"
    "                       what the body must be, or contain\n"
    "report:\n"
    "  --format FORMAT      text, kv (key=value) or json (text)\n"
    "  --html FILE          also write a report with plots\n"
    "  --help\n"
    "Exit status: 0 every request was answered correctly, 1 not, 2 wrong usage.\n";

/* What only the reading of the command line needs. */
struct request_line {
    char *url, *urls_path, *method;
    struct buf headers; /* lines with CR LF */
    char *body;
    size_t body_bytes;
    bool has_body, own_host;
    unsigned bodies; /* how often one was given */
    bool duration_given;
};

/* --- values ----------------------------------------------------------------------------------- */

bool bench_parse_number(const char *text, double max, double *ret)
{
    char *end;
    if ((text[0] < '0' || text[0] > '9') && text[0] != '.')
        return false; /* no sign, no space, no "inf" */
    double value = strtod(text, &end);
    if (*end || !(value > 0) || value > max)
        return false;
    *ret = value;
    return true;
}

bool bench_parse_time(const char *text, uint64_t *ret)
{
    static const struct {
        const char *name;
        double ns;
    } units[] = { { "ms", 1e6 }, { "s", 1e9 }, { "m", 60e9 }, { "h", 3600e9 }, { "", 1e9 } };
    size_t n = strspn(text, "0123456789.");
    char number[32];

    if (n == 0 || n >= sizeof(number))
        return false;
    memcpy(number, text, n);
    number[n] = '\0';
    for (size_t i = 0; i < ARRAY_LENGTH(units); i++) {
        if (strcmp(text + n, units[i].name) != 0)
            continue;
        char *end;
        double value = strtod(number, &end) * units[i].ns;
        if (*end || !(value >= 0) || value > 30 * 24 * 3600e9)
            return false;
        *ret = (uint64_t)value;
        return true;
    }
    return false;
}

static bool parse_digest(const char *text, uint8_t ret[SHA256_BYTES])
{
    if (strlen(text) != (size_t)2 * SHA256_BYTES)
        return false;
    for (size_t i = 0; i < SHA256_BYTES; i++) {
        int high = hex_value(text[2 * i]), low = hex_value(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        ret[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

/* Where to go on in the text when the next byte does not fit (Knuth, Morris, Pratt). */
static void set_expected_text(struct bench_options *o, const char *text)
{
    mem_free(o->expect_text);
    mem_free(o->text_borders);
    o->expect_text = mem_strdup(text);
    o->text_bytes = strlen(text);
    o->text_borders = mem_zalloc((o->text_bytes + 1) * sizeof(o->text_borders[0]));
    for (size_t i = 1, k = 0; i < o->text_bytes; i++) {
        while (k && text[i] != text[k])
            k = o->text_borders[k - 1];
        k += text[i] == text[k];
        o->text_borders[i] = (uint32_t)k;
    }
}

static int read_file(const char *path, char **ret, size_t *ret_n, char **ret_message)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 ? -errno : fd_read_all(fd, FILE_BYTES_MAX, ret, ret_n);
    fd_close(&fd);
    if (rc < 0) {
        *ret_message = mem_printf("%s: %s", path, strerror(-rc));
        return -EINVAL;
    }
    return 0;
}

/* --- the command line ------------------------------------------------------------------------- */

static void replace(char **at, const char *text)
{
    mem_free(*at);
    *at = mem_strdup(text);
}

static bool add_header(struct request_line *l, const char *text)
{
    struct str line = str_from(text), name = line;
    ptrdiff_t colon = str_find(line, ':');

    if (colon <= 0 || strpbrk(text, "\r\n"))
        return false;
    name.n = (size_t)colon;
    l->own_host |= str_eq_nocase(name, STR("Host"));
    return buf_printf(&l->headers, "%s\r\n", text) == 0;
}

enum option {
    URL,
    URLS,
    UNIX,
    CACERT,
    INSECURE,
    RPS,
    POISSON,
    CONCURRENCY,
    THREADS,
    DURATION,
    REQUESTS,
    WARMUP,
    TIMEOUT,
    NO_KEEPALIVE,
    METHOD,
    HEADER,
    BODY,
    BODY_FILE,
    EXPECT_STATUS,
    EXPECT_LENGTH,
    EXPECT_SHA256,
    EXPECT_TEXT,
    FORMAT,
    HTML,
    HELP,
};

static const struct bench_option known[] = {
    [URL] = { "--url", "a URL" },
    [URLS] = { "--urls", "a file" },
    [UNIX] = { "--unix", "the path of a socket" },
    [CACERT] = { "--cacert", "a file or a folder" },
    [INSECURE] = { "--insecure", NULL },
    [RPS] = { "--rps", "a number above 0, at most 10000000" },
    [POISSON] = { "--poisson", NULL },
    [CONCURRENCY] = { "--concurrency", "a whole number from 1 to 1000000" },
    [THREADS] = { "--threads", "a whole number from 1 to 256" },
    [DURATION] = { "--duration", "a time above 0 such as 30s, 500ms or 5m, at most 720h" },
    [REQUESTS] = { "--requests", "a whole number above 0" },
    [WARMUP] = { "--warmup", "a time such as 5s, at most 720h" },
    [TIMEOUT] = { "--timeout", "a time above 0 such as 10s, at most 720h" },
    [NO_KEEPALIVE] = { "--no-keepalive", NULL },
    [METHOD] = { "--method", "a method such as GET" },
    [HEADER] = { "--header", "one line \"Name: value\"" },
    [BODY] = { "--body", "a text" },
    [BODY_FILE] = { "--body-file", "a file" },
    [EXPECT_STATUS] = { "--expect-status", "a status from 100 to 999" },
    [EXPECT_LENGTH] = { "--expect-length", "a number of bytes" },
    [EXPECT_SHA256] = { "--expect-sha256", "64 hexadecimal digits" },
    [EXPECT_TEXT] = { "--expect-text", "a text that is not empty" },
    [FORMAT] = { "--format", "text, kv or json" },
    [HTML] = { "--html", "a file" },
    [HELP] = { "--help", NULL },
};

static bool set_count(const char *value, uint64_t max, uint64_t *ret)
{
    return str_to_u64(str_from(value), max, ret) && *ret > 0;
}

/* Options of the request and the answer. False when the value is not what `known` says. */
static bool set_request_option(struct bench_options *o, struct request_line *l, enum option option,
                               const char *value)
{
    uint64_t n = 0;
    bool ok = true;

    switch (option) {
    case URL: replace(&l->url, value); break;
    case URLS: replace(&l->urls_path, value); break;
    case METHOD: replace(&l->method, value); return http_is_token(str_from(value));
    case HEADER: return add_header(l, value);
    case BODY:
        l->bodies++;
        replace(&l->body, value);
        l->body_bytes = strlen(value);
        l->has_body = true;
        break;
    case EXPECT_STATUS:
        ok = str_to_u64(str_from(value), 999, &n) && n >= 100;
        o->expect_status = (uint16_t)n;
        break;
    case EXPECT_LENGTH:
        ok = str_to_u64(str_from(value), INT64_MAX, &n);
        o->expect_bytes = (int64_t)n;
        break;
    case EXPECT_SHA256:
        ok = parse_digest(value, o->digest);
        o->expect_digest = true;
        break;
    case EXPECT_TEXT:
        ok = *value != '\0';
        set_expected_text(o, value);
        break;
    default: CHECKF(false, "option %d", (int)option);
    }
    return ok;
}

/* Options of the load and the report, then the others. */
static bool set_option(struct bench_options *o, struct request_line *l, enum option option,
                       const char *value)
{
    uint64_t n = 0;
    bool ok = true;

    switch (option) {
    case UNIX: replace(&o->unix_path, value); return *value != '\0';
    case CACERT: replace(&o->ca_path, value); return *value != '\0';
    case INSECURE: o->insecure = true; break;
    case RPS: return bench_parse_number(value, 1e7, &o->rps);
    case POISSON: o->poisson = true; break;
    case CONCURRENCY:
        ok = set_count(value, CONNECTIONS_MAX, &n);
        o->connections = (uint32_t)n;
        break;
    case THREADS:
        ok = set_count(value, THREADS_MAX, &n);
        o->threads = (uint32_t)n;
        break;
    case DURATION:
        l->duration_given = true;
        return bench_parse_time(value, &o->duration_ns) && o->duration_ns > 0;
    case REQUESTS: return set_count(value, UINT64_MAX / 2, &o->requests);
    case WARMUP: return bench_parse_time(value, &o->warmup_ns);
    case TIMEOUT: return bench_parse_time(value, &o->timeout_ns) && o->timeout_ns > 0;
    case NO_KEEPALIVE: o->no_keepalive = true; break;
    case FORMAT: return bench_parse_format(value, &o->format);
    case HTML: replace(&o->html_path, value); break;
    case HELP: o->help = true; break;
    default: return set_request_option(o, l, option, value);
    }
    return ok;
}

bool bench_parse_format(const char *text, enum bench_format *ret)
{
    static const char *const names[] = {
        [BENCH_TEXT] = "text", [BENCH_KEY_VALUE] = "kv", [BENCH_JSON] = "json"
    };

    for (size_t i = 0; i < ARRAY_LENGTH(names); i++)
        if (strcmp(text, names[i]) == 0) {
            *ret = (enum bench_format)i;
            return true;
        }
    return false;
}

int bench_option_take(int argc, char **argv, int *at, const struct bench_option *table,
                      size_t n_table, const char *command, const char **ret_value,
                      char **ret_message)
{
    const char *arg = argv[*at];
    size_t n = strcspn(arg, "=");

    for (size_t i = 0; i < n_table; i++) {
        if (strlen(table[i].name) != n || strncmp(arg, table[i].name, n) != 0)
            continue;
        const char *value = arg[n] ? arg + n + 1 : NULL;
        if (table[i].expects && !value && *at + 1 < argc)
            value = argv[++*at];
        *ret_value = value;
        if ((table[i].expects != NULL) == (value != NULL))
            return (int)i;
        *ret_message = value ? mem_printf("%s takes no value, found \"%s\"", table[i].name, value)
                             : mem_printf("%s needs a value: %s", table[i].name, table[i].expects);
        return -EINVAL;
    }
    *ret_message = mem_printf("unknown option %s; `sapid %s --help` lists them", arg, command);
    return -EINVAL;
}

char *bench_option_wrong(const struct bench_option *option, const char *value)
{
    return mem_printf("%s: expected %s, found \"%s\"", option->name, option->expects, value);
}

/* Takes the argument at argv[*at], and its value. */
static int take_argument(int argc, char **argv, int *at, struct bench_options *o,
                         struct request_line *l, char **ret_message)
{
    const char *arg = argv[*at], *value;

    if (arg[0] != '-') {
        if (l->url) {
            *ret_message = mem_printf(
                "expected one URL, found %s and %s; --urls FILE takes several", l->url, arg);
            return -EINVAL;
        }
        replace(&l->url, arg);
        return 0;
    }
    int option =
        bench_option_take(argc, argv, at, known, ARRAY_LENGTH(known), "bench", &value, ret_message);
    if (option < 0)
        return option;
    if (option == BODY_FILE) {
        mem_free(l->body);
        l->body = NULL;
        l->has_body = true;
        l->bodies++;
        return read_file(value, &l->body, &l->body_bytes, ret_message);
    }
    if (set_option(o, l, (enum option)option, value))
        return 0;
    *ret_message = bench_option_wrong(&known[option], value);
    return -EINVAL;
}

/* --- the requests ----------------------------------------------------------------------------- */

/* What a request would be refused for, in the words of a URL. */
static int check_url(struct str url, struct str authority, char **ret_message)
{
    struct str port;
    uint64_t n = 0;

    for (size_t i = 0; i < url.n; i++)
        if (url.p[i] <= ' ' || url.p[i] > '~') {
            *ret_message = mem_printf("expected a URL of letters, digits and signs, found byte "
                                      "0x%02X in %.*s; write it as %%%02X",
                                      (uint8_t)url.p[i], STR_ARG(url), (uint8_t)url.p[i]);
            return -EINVAL;
        }
    if (str_find(authority, '@') >= 0) {
        *ret_message = mem_printf("expected no user name in a URL, found %.*s; use "
                                  "--header \"Authorization: ...\"",
                                  STR_ARG(url));
        return -EINVAL;
    }
    bench_split_authority(authority, &port);
    if (!port.n || (str_to_u64(port, UINT16_MAX, &n) && n > 0))
        return 0;
    *ret_message = mem_printf("expected a port from 1 to 65535, found %.*s", STR_ARG(url));
    return -EINVAL;
}

/* "http://authority/path" into its parts. */
static int split_url(struct str url, bool *ret_https, struct str *ret_authority,
                     struct str *ret_target, char **ret_message)
{
    bool https = str_eq_nocase(str_take(url, 8), STR("https://"));

    if (!https && !str_eq_nocase(str_take(url, 7), STR("http://"))) {
        *ret_message = mem_printf("expected a URL such as http://127.0.0.1:8080/ or "
                                  "https://localhost/, found %.*s",
                                  STR_ARG(url));
        return -EINVAL;
    }
    *ret_https = https;
    struct str rest = str_skip(url, https ? 8 : 7);
    rest = str_cut(&rest, '#'); /* a fragment is not for the server */
    size_t n = 0;
    while (n < rest.n && rest.p[n] != '/' && rest.p[n] != '?')
        n++;
    *ret_authority = str_take(rest, n);
    *ret_target = str_skip(rest, n);
    return check_url(url, *ret_authority, ret_message);
}

static int check_request(const struct bench_target *t, char **ret_message)
{
    static const struct http_limits generous = { .request_line_bytes = 64 << 10,
                                                 .headers_bytes = 1 << 20,
                                                 .headers_count = HTTP_HEADERS_MAX,
                                                 .body_bytes = FILE_BYTES_MAX };
    struct http1_parser p = { .scanned = 0 };
    struct http_request *r = mem_alloc(sizeof(*r));
    struct str head = buf_view(&t->bytes);
    int rc = http1_parse_request(&p, head, &generous, r);
    bool right = rc > 0 && !r->chunked && r->form == HTTP_ORIGIN_FORM &&
                 head.n - (size_t)rc == (size_t)(r->content_length > 0 ? r->content_length : 0);

    mem_free(r);
    if (right)
        return 0;
    *ret_message = mem_printf("%s: this is no valid request: %s", t->url,
                              rc < 0 ? http_error_text((enum http_error) - rc)
                                     : "the length of the body must be left to sapid bench");
    return -EINVAL;
}

/* The bytes of a request. */
static int build_request(const struct bench_options *o, const struct request_line *l,
                         struct bench_target *t, struct str authority, struct str target)
{
    struct buf *b = &t->bytes;
    struct str method = str_from(t->method);
    bool takes_body = str_eq(method, STR("POST")) || str_eq(method, STR("PUT")) ||
                      str_eq(method, STR("PATCH"));
    const char *slash = target.n == 0 || target.p[0] != '/' ? "/" : "";
    int rc = buf_printf(b, "%s %s%.*s HTTP/1.1\r\n", t->method, slash, (int)target.n,
                        target.n ? target.p : "");

    if (rc == 0 && !l->own_host)
        rc = buf_printf(b, "Host: %.*s\r\n", STR_ARG(authority));
    if (rc == 0 && o->no_keepalive)
        rc = buf_printf(b, "Connection: close\r\n");
    if (rc == 0)
        rc = buf_append(b, l->headers.base, buf_length(&l->headers));
    if (rc == 0 && (l->has_body || takes_body))
        rc = buf_printf(b, "Content-Length: %zu\r\n", l->body_bytes);
    if (rc == 0)
        rc = buf_append(b, "\r\n", 2);
    if (rc == 0)
        rc = buf_append(b, l->body, l->body_bytes);
    t->to_head = str_eq(method, STR("HEAD"));
    return rc;
}

static int add_target(struct bench_options *o, const struct request_line *l, struct str url,
                      struct str method, double weight, char **ret_message)
{
    struct str authority, target;
    bool https;

    if (split_url(url, &https, &authority, &target, ret_message) < 0)
        return -EINVAL;
    if (o->authority && (!str_eq_nocase(str_from(o->authority), authority) || o->https != https)) {
        *ret_message = mem_printf("expected URLs of one server, found %s and %.*s",
                                  o->targets[0].url, STR_ARG(url));
        return -EINVAL;
    }
    o->https = https;
    if (!o->authority)
        o->authority = mem_strndup(authority);
    o->targets = mem_realloc(o->targets, (o->n_targets + 1) * sizeof(o->targets[0]));
    struct bench_target *t = &o->targets[o->n_targets++];
    *t = (struct bench_target){ .url = mem_strndup(url), .share = weight };
    if (method.n)
        t->method = mem_strndup(method);
    else
        t->method = mem_strdup(l->method ? l->method : l->has_body ? "POST" : "GET");
    buf_init(&t->bytes, 0);
    if (build_request(o, l, t, authority, target) < 0) {
        *ret_message = mem_strdup("out of memory");
        return -EINVAL;
    }
    return check_request(t, ret_message);
}

/* What is meant as a number, right or wrong; no method begins so. */
static bool is_weight(struct str word)
{
    return (word.p[0] >= '0' && word.p[0] <= '9') || strchr("+-.", word.p[0]);
}

static int take_weight(struct str word, double *ret)
{
    char *text = mem_strndup(word);
    bool valid = bench_parse_number(text, 1e9, ret);

    mem_free(text);
    return valid ? 0 : -EINVAL;
}

/* "[WEIGHT] [METHOD] URL" */
static int add_line(struct bench_options *o, const struct request_line *l, struct str line,
                    char **ret_message)
{
    struct str rest = str_trim(line), words[3];
    size_t n = 0;
    double weight = 1;

    while (rest.n && n < ARRAY_LENGTH(words)) {
        words[n++] = str_cut(&rest, ' ');
        rest = str_trim(rest);
    }
    if (n == 0 || words[0].p[0] == '#')
        return 0;
    size_t first = n > 1 && is_weight(words[0]);
    if (rest.n || n - first > 2) {
        *ret_message = mem_printf("expected [WEIGHT] [METHOD] URL, found %.*s", STR_ARG(line));
        return -EINVAL;
    }
    if (first && take_weight(words[0], &weight) < 0) {
        *ret_message = mem_printf("expected a weight above 0, at most 1000000000, found %.*s",
                                  STR_ARG(words[0]));
        return -EINVAL;
    }
    struct str method = n - first == 2 ? words[first] : STR_NONE;
    if (method.n && (method.p[0] < 'A' || method.p[0] > 'Z' || !http_is_token(method))) {
        *ret_message = mem_printf("expected a weight such as 3 or a method such as GET, found %.*s",
                                  STR_ARG(method));
        return -EINVAL;
    }
    return add_target(o, l, words[n - 1], method, weight, ret_message);
}

static int add_file(struct bench_options *o, const struct request_line *l, char **ret_message)
{
    char *text = NULL, *why = NULL;
    size_t n = 0, number = 1;
    int rc = 0;

    if (read_file(l->urls_path, &text, &n, ret_message) < 0)
        return -EINVAL;
    for (struct str rest = { text, n }; rest.p && rc == 0; number++) {
        struct str line = str_cut(&rest, '\n');
        if (str_has_suffix(line, STR("\r")))
            line.n--;
        if (str_find(line, '\0') >= 0) {
            why = mem_strdup("expected a line of text, found a byte of value 0");
            rc = -EINVAL;
        } else {
            rc = add_line(o, l, line, &why);
        }
        if (rc < 0) {
            *ret_message = mem_printf("%s:%zu: %s", l->urls_path, number, why);
            mem_free(why);
        }
    }
    mem_free(text);
    if (rc == 0 && o->n_targets == 0) {
        *ret_message = mem_printf("%s: expected a URL a line, found none", l->urls_path);
        return -EINVAL;
    }
    return rc;
}

/* --- the address ------------------------------------------------------------------------------ */

static bool accepts_connections(const struct addrinfo *a)
{
    struct timeval limit = { .tv_sec = PROBE_SECONDS };
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return false;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    bool ok = connect(fd, a->ai_addr, a->ai_addrlen) == 0;
    close(fd);
    return ok;
}

/* Of several addresses of a name the first that accepts, as browsers do: localhost is two. */
static int resolve(struct bench_options *o, char **ret_message)
{
    struct str port, host = bench_split_authority(str_from(o->authority), &port);
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list;
    char *name = mem_strndup(host);
    char *service = port.n ? mem_strndup(port) : mem_strdup(o->https ? "443" : "80");
    int rc = getaddrinfo(name, service, &hints, &list);
    if (rc)
        *ret_message = mem_printf("%s: cannot find the address of this server: %s", o->authority,
                                  gai_strerror(rc));
    mem_free(name);
    mem_free(service);
    if (rc)
        return -EINVAL;
    const struct addrinfo *chosen = list;
    for (const struct addrinfo *a = list; list->ai_next && a; a = a->ai_next)
        if (accepts_connections(a)) {
            chosen = a;
            break;
        }
    memcpy(&o->address, chosen->ai_addr, chosen->ai_addrlen);
    o->address_bytes = chosen->ai_addrlen;
    freeaddrinfo(list);
    return 0;
}

static int use_unix_socket(struct bench_options *o, char **ret_message)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&o->address;
    size_t n = strlen(o->unix_path);

    if (n >= sizeof(un->sun_path)) {
        *ret_message = mem_printf("--unix: expected a path of at most %zu bytes, found %zu",
                                  sizeof(un->sun_path) - 1, n);
        return -EINVAL;
    }
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, o->unix_path, n + 1);
    o->address_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
    return 0;
}

/* --- together --------------------------------------------------------------------------------- */

static int check_together(const struct bench_options *o, const struct request_line *l,
                          char **ret_message)
{
    if (l->url && l->urls_path)
        *ret_message = mem_strdup("expected a URL or --urls, found both");
    else if (!l->url && !l->urls_path)
        *ret_message = mem_strdup("expected a URL such as http://127.0.0.1:8080/, or --urls FILE; "
                                  "`sapid bench --help` has more");
    else if (o->poisson && o->rps <= 0)
        *ret_message = mem_strdup("--poisson needs --rps: the mean of its rate");
    else if (o->threads > o->connections)
        *ret_message = mem_printf("expected a connection for each thread at least, found "
                                  "--threads %u and --concurrency %u",
                                  o->threads, o->connections);
    else if (l->bodies > 1)
        *ret_message = mem_strdup("expected one --body or --body-file, found more");
    else if (o->insecure && o->ca_path)
        *ret_message = mem_strdup("expected --cacert or --insecure, found both");
    else
        return 0;
    return -EINVAL;
}

static int finish(struct bench_options *o, const struct request_line *l, char **ret_message)
{
    double sum = 0;

    if (check_together(o, l, ret_message) < 0)
        return -EINVAL;
    if (o->requests && !l->duration_given)
        o->duration_ns = 0;
    int rc = l->urls_path ? add_file(o, l, ret_message)
                          : add_target(o, l, str_from(l->url), STR_NONE, 1, ret_message);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < o->n_targets; i++)
        sum += o->targets[i].share;
    for (size_t i = 0; i < o->n_targets; i++)
        o->targets[i].share /= sum;
    if (o->ca_path && !o->https) {
        *ret_message = mem_strdup("--cacert needs an https:// URL");
        return -EINVAL;
    }
    rc = o->unix_path ? use_unix_socket(o, ret_message) : resolve(o, ret_message);
    return rc == 0 && o->https ? bench_tls_open(o, ret_message) : rc;
}

int bench_options_parse(int argc, char **argv, struct bench_options *o, char **ret_message)
{
    struct request_line line = { .url = NULL };
    int rc = 0;

    *o = (struct bench_options){ .threads = 1,
                                 .connections = 10,
                                 .duration_ns = 10 * NS_PER_S,
                                 .timeout_ns = 10 * NS_PER_S,
                                 .expect_bytes = -1 };
    buf_init(&line.headers, 0);
    for (int i = 1; i < argc && rc == 0 && !o->help; i++)
        rc = take_argument(argc, argv, &i, o, &line, ret_message);
    if (rc == 0 && !o->help)
        rc = finish(o, &line, ret_message);
    mem_free(line.url);
    mem_free(line.urls_path);
    mem_free(line.method);
    mem_free(line.body);
    buf_fini(&line.headers);
    return rc;
}

void bench_options_fini(struct bench_options *o)
{
    for (size_t i = 0; i < o->n_targets; i++) {
        mem_free(o->targets[i].url);
        mem_free(o->targets[i].method);
        buf_fini(&o->targets[i].bytes);
    }
    bench_tls_close(o);
    mem_free(o->targets);
    mem_free(o->authority);
    mem_free(o->ca_path);
    mem_free(o->unix_path);
    mem_free(o->expect_text);
    mem_free(o->text_borders);
    mem_free(o->html_path);
}
