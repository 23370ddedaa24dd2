/*
 * What to send for a static file: representation (RFC 9110 12.5.3), preconditions in the order
 * of 13.2.2, then ranges (14.2) of the representation that was chosen. Makes a plan of segments;
 * the gateway sends it.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/fd.h"
#include "gateway/files_int.h"

enum { RANGES_MAX = (STATIC_SEGMENTS_MAX - 2) / 2, ETAG_BYTES = 48 };
static_assert(2 * RANGES_MAX + 1 <= STATIC_SEGMENTS_MAX,
              "a head for each part and the last boundary");

static const struct str coding_names[CODINGS] = { { "br", 2 }, { "zstd", 4 }, { "gzip", 4 } };

/* The request's fields that matter here; lists over several lines are one list (RFC 9110 5.3). */
struct conditions {
    bool if_match, if_match_true, if_none_match, if_none_match_true;
    struct str if_unmodified_since, if_modified_since, if_range, range;
    uint32_t ranges;
};

/* The representation that was chosen. */
struct chosen {
    struct file *file;
    enum coding coding;
    char etag_text[ETAG_BYTES];
    struct str etag;
    time_t modified; /* never in the future: RFC 9110 8.8.2.1 */
    time_t now;
};

static void note(struct conditions *c, const struct http_header *h, struct str etag)
{
    switch (h->name.n) {
    case 5:
        if (str_eq_nocase(h->name, STR("Range"))) {
            c->range = h->value;
            c->ranges++;
        }
        break;
    case 8:
        if (str_eq_nocase(h->name, STR("If-Match"))) {
            c->if_match = true;
            c->if_match_true |= http_etag_matches(h->value, etag, true);
        } else if (str_eq_nocase(h->name, STR("If-Range"))) {
            c->if_range = h->value;
        }
        break;
    case 13:
        if (str_eq_nocase(h->name, STR("If-None-Match"))) {
            c->if_none_match = true;
            c->if_none_match_true |= http_etag_matches(h->value, etag, false);
        }
        break;
    case 17:
        if (str_eq_nocase(h->name, STR("If-Modified-Since")))
            c->if_modified_since = h->value;
        break;
    case 19:
        if (str_eq_nocase(h->name, STR("If-Unmodified-Since")))
            c->if_unmodified_since = h->value;
        break;
    default: break;
    }
}

/* RFC 9110 13.2.2, steps 1 to 4, for GET and HEAD. 0: go on; 304, 412. */
static int judge(const struct conditions *c, const struct chosen *chosen)
{
    time_t date;
    if (c->if_match) {
        if (!c->if_match_true)
            return 412;
    } else if (c->if_unmodified_since.p && http_parse_date(c->if_unmodified_since, &date) == 0) {
        if (chosen->modified > date)
            return 412;
    }
    if (c->if_none_match)
        return c->if_none_match_true ? 304 : 0;
    if (c->if_modified_since.p && http_parse_date(c->if_modified_since, &date) == 0 &&
        chosen->modified <= date)
        return 304;
    return 0;
}

/* Step 5. A date is a strong validator only when nothing can have changed twice in its second. */
static bool range_applies(const struct conditions *c, const struct chosen *chosen)
{
    time_t date;
    if (c->ranges != 1)
        return false;
    if (c->if_range.p == NULL)
        return true;
    if (c->if_range.n > 0 && c->if_range.p[c->if_range.n - 1] == '"')
        return http_etag_matches(c->if_range, chosen->etag, true);
    return http_parse_date(c->if_range, &date) == 0 && date == chosen->modified &&
           date + 1 < chosen->now;
}

/* Largest quality any line gives; -1: not named. */
static int accepts(const struct http_request *r, struct str coding)
{
    int best = -1;
    for (uint32_t i = 0; i < r->n_headers; i++) {
        if (r->headers[i].name.n != 15 ||
            !str_eq_nocase(r->headers[i].name, STR("Accept-Encoding")))
            continue;
        int q = http_accepts_coding(r->headers[i].value, coding);
        best = q > best ? q : best;
    }
    return best;
}

/* The best neighbour the client takes, else the file itself: also when the client refuses that,
 * since an answer it may not like is more use than 406. */
static void choose(struct chosen *chosen, struct files *f, struct file *file,
                   const struct http_request *r, uint8_t neighbours)
{
    int identity = neighbours ? accepts(r, STR("identity")) : 0;
    int best_quality = identity > 0 ? identity : 0;
    chosen->file = file;
    chosen->coding = CODING_IDENTITY;
    for (int c = 0; c < CODINGS && neighbours; c++) {
        int quality = neighbours & 1u << c ? accepts(r, coding_names[c]) : 0;
        bool better = chosen->coding == CODING_IDENTITY ? quality >= best_quality
                                                        : quality > best_quality;
        if (quality <= 0 || !better)
            continue;
        struct file *neighbour = files_open_neighbour(f, file, (enum coding)c);
        if (neighbour == NULL)
            continue;
        if (chosen->file != file)
            file_release(chosen->file);
        chosen->file = neighbour;
        chosen->coding = (enum coding)c;
        best_quality = quality;
    }
}

/* Strong: another time of change or size is another tag, each coding has its own. */
static void make_etag(struct chosen *c)
{
    const struct file *file = c->file;
    int n = snprintf(c->etag_text, sizeof c->etag_text, "\"%" PRIx64 "-%" PRIx64 "%s%.*s\"",
                     (uint64_t)file->mtime_s * 1000000000 + file->mtime_ns, file->size,
                     c->coding == CODING_IDENTITY ? "" : "-",
                     c->coding == CODING_IDENTITY ? 0 : (int)coding_names[c->coding].n,
                     c->coding == CODING_IDENTITY ? "" : coding_names[c->coding].p);
    CHECK(n > 0 && n < (int)sizeof c->etag_text);
    c->etag = (struct str){ c->etag_text, (size_t)n };
}

/* --- the head ----------------------------------------------------------------------------- */

static int put(struct buf *b, struct str s)
{
    return buf_append(b, s.p, s.n);
}

/* ETag, Last-Modified, Vary: what a 304 carries too. */
static int put_validators(struct static_plan *plan, const struct chosen *c, bool vary)
{
    char date[HTTP_DATE_BYTES];
    const char *modified = c->file->last_modified;
    if (c->modified != c->file->mtime_s) {
        http_format_date(c->modified, date);
        modified = date;
    }
    int rc = put(&plan->head, STR("ETag: "));
    if (rc == 0)
        rc = put(&plan->head, c->etag);
    if (rc == 0)
        rc = put(&plan->head, STR("\r\nLast-Modified: "));
    if (rc == 0)
        rc = buf_append(&plan->head, modified, HTTP_DATE_BYTES - 1);
    if (rc == 0)
        rc = put(&plan->head, vary ? STR("\r\nVary: Accept-Encoding\r\n") : STR("\r\n"));
    return rc;
}

static int put_length(struct static_plan *plan, uint64_t length)
{
    plan->content_length = length;
    return buf_printf(&plan->head, "Content-Length: %" PRIu64 "\r\n", length);
}

/* Content-Type, Content-Encoding, length and the rest of a 200 or 206. `type` is of the original: a
 * neighbour's own name would say gzip. */
static int put_content(struct static_plan *plan, const struct chosen *c, struct str type,
                       uint64_t length)
{
    int rc = buf_printf(&plan->head, "Content-Type: %.*s\r\n", STR_ARG(type));
    if (rc == 0 && c->coding != CODING_IDENTITY)
        rc =
            buf_printf(&plan->head, "Content-Encoding: %.*s\r\n", STR_ARG(coding_names[c->coding]));
    if (rc == 0)
        rc = put(&plan->head, STR("Accept-Ranges: bytes\r\n"));
    return rc < 0 ? rc : put_length(plan, length);
}

/* --- the body ----------------------------------------------------------------------------- */

static void add_segment(struct static_plan *plan, int fd, uint64_t offset, uint64_t length)
{
    CHECK(plan->n_segments < STATIC_SEGMENTS_MAX);
    if (length > 0)
        plan->segments[plan->n_segments++] =
            (struct static_segment){ .fd = fd, .offset = offset, .length = length };
}

/* Bytes of plan->texts; their address is filled in by settle_texts, for the buffer still grows. */
static void add_text(struct static_plan *plan, size_t from)
{
    add_segment(plan, -1, from, buf_length(&plan->texts) - from);
}

static void settle_texts(struct static_plan *plan)
{
    struct str all = buf_view(&plan->texts);
    for (uint32_t i = 0; i < plan->n_segments; i++) {
        struct static_segment *s = &plan->segments[i];
        if (s->fd >= 0)
            continue;
        s->text = str_take(str_skip(all, s->offset), s->length);
        s->offset = 0;
    }
}

static int plan_single(struct static_plan *plan, const struct chosen *c, struct str type,
                       struct http_range range)
{
    uint64_t length = range.last - range.first + 1;
    plan->status = 206;
    add_segment(plan, c->file->fd, range.first, length);
    int rc = buf_printf(&plan->head, "Content-Range: bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64 "\r\n",
                        range.first, range.last, c->file->size);
    return rc < 0 ? rc : put_content(plan, c, type, length);
}

static int plan_multipart(struct static_plan *plan, struct files *f, const struct chosen *c,
                          struct str type, const struct http_range *ranges, int n)
{
    char boundary[33], outer[80];
    uint64_t length = 0;
    plan->status = 206;
    files_boundary(f, boundary);
    for (int i = 0; i < n; i++) {
        size_t from = buf_length(&plan->texts);
        uint64_t bytes = ranges[i].last - ranges[i].first + 1;
        int rc = buf_printf(&plan->texts,
                            "%s--%s\r\nContent-Type: %.*s\r\n"
                            "Content-Range: bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64 "\r\n\r\n",
                            i ? "\r\n" : "", boundary, STR_ARG(type), ranges[i].first,
                            ranges[i].last, c->file->size);
        if (rc < 0)
            return rc;
        add_text(plan, from);
        add_segment(plan, c->file->fd, ranges[i].first, bytes);
        length += bytes;
    }
    size_t from = buf_length(&plan->texts);
    int rc = buf_printf(&plan->texts, "\r\n--%s--\r\n", boundary);
    if (rc < 0)
        return rc;
    add_text(plan, from);
    settle_texts(plan);
    int outer_bytes = snprintf(outer, sizeof outer, "multipart/byteranges; boundary=%s", boundary);
    return put_content(plan, c, (struct str){ outer, (size_t)outer_bytes },
                       length + buf_length(&plan->texts));
}

static int plan_whole(struct static_plan *plan, const struct chosen *c, struct str type)
{
    plan->status = 200;
    add_segment(plan, c->file->fd, 0, c->file->size);
    return put_content(plan, c, type, c->file->size);
}

static int plan_unsatisfiable(struct static_plan *plan, const struct chosen *c)
{
    plan->status = 416;
    int rc = buf_printf(&plan->head, "Content-Range: bytes */%" PRIu64 "\r\n", c->file->size);
    return rc < 0 ? rc : put_length(plan, 0);
}

/* --- the plan ----------------------------------------------------------------------------- */

static int plan_body(struct static_plan *plan, struct files *f, const struct chosen *c,
                     struct str type, const struct conditions *conditions,
                     const struct http_request *r)
{
    struct http_range ranges[RANGES_MAX];
    int n = 0;
    /* Ranges are defined for GET alone (RFC 9110 14.2). */
    if (r->method == HTTP_GET && range_applies(conditions, c))
        n = http_parse_ranges(conditions->range, c->file->size, ranges, RANGES_MAX);
    if (n == -ERANGE)
        return plan_unsatisfiable(plan, c);
    CHECK(n >= 0 && n <= RANGES_MAX);
    if (n == 1)
        return plan_single(plan, c, type, ranges[0]);
    if (n > 1)
        return plan_multipart(plan, f, c, type, ranges, n);
    return plan_whole(plan, c, type);
}

static int plan_answer(struct static_plan *plan, struct files *f, const struct chosen *c,
                       struct str type, const struct http_request *r, bool vary)
{
    struct conditions conditions = { .ranges = 0 };
    for (uint32_t i = 0; i < r->n_headers; i++)
        note(&conditions, &r->headers[i], c->etag);
    int rc = put_validators(plan, c, vary);
    if (rc < 0)
        return rc;
    plan->status = judge(&conditions, c);
    if (plan->status == 304)
        return 0;
    if (plan->status == 412)
        return put_length(plan, 0);
    return plan_body(plan, f, c, type, &conditions, r);
}

int static_plan_init(struct static_plan *plan, struct files *f, struct file *file,
                     const struct http_request *r)
{
    CHECK_MAGIC(file, FILE_MAGIC);
    /* Not the segments: they are kilobytes, and n_segments says how many there are. */
    plan->status = 0;
    plan->content_length = 0;
    plan->n_segments = 0;
    plan->file = file;
    buf_init(&plan->head, 0);
    buf_init(&plan->texts, 0);
    int rc = buf_reserve(&plan->head, 512);
    if (rc == 0 && r->method != HTTP_GET && r->method != HTTP_HEAD) {
        plan->status = 405;
        rc = put(&plan->head, STR("Allow: GET, HEAD\r\nContent-Length: 0\r\n"));
    } else if (rc == 0) {
        struct chosen chosen = { .now = time(NULL) };
        uint8_t neighbours = files_neighbours(f, file);
        choose(&chosen, f, file, r, neighbours);
        chosen.modified = chosen.file->mtime_s < chosen.now ? chosen.file->mtime_s : chosen.now;
        make_etag(&chosen);
        rc = plan_answer(plan, f, &chosen, file->type, r, neighbours != 0);
        plan->file = chosen.file;
        if (chosen.file != file)
            file_release(file);
    }
    if (rc < 0) {
        static_plan_fini(plan);
        return rc;
    }
    if (r->method == HTTP_HEAD)
        plan->n_segments = 0;
    return 0;
}

void static_plan_fini(struct static_plan *plan)
{
    buf_fini(&plan->head);
    buf_fini(&plan->texts);
    plan->n_segments = 0;
    if (plan->file != NULL)
        file_release(plan->file);
    plan->file = NULL;
}
