/*
 * Media types by file name extension: /etc/mime.types where the system has it (administrators add
 * to it), then an own table with what browsers must not get wrong. Read once for all threads, never
 * freed.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/fd.h"
#include "base/mem.h"
#include "gateway/files_int.h"

enum { MIME_FILE_BYTES_MAX = 1 << 20, EXTENSION_BYTES_MAX = 16 };

struct mime {
    struct str extension, type;
};

static const struct mime built_in[] = {
    { STR("html"), STR("text/html") },
    { STR("htm"), STR("text/html") },
    { STR("js"), STR("text/javascript") },
    { STR("mjs"), STR("text/javascript") },
    { STR("xml"), STR("application/xml") },
    { STR("ico"), STR("image/vnd.microsoft.icon") },
    { STR("css"), STR("text/css") },
    { STR("txt"), STR("text/plain") },
    { STR("csv"), STR("text/csv") },
    { STR("md"), STR("text/markdown") },
    { STR("vtt"), STR("text/vtt") },
    { STR("ics"), STR("text/calendar") },
    { STR("json"), STR("application/json") },
    { STR("map"), STR("application/json") },
    { STR("webmanifest"), STR("application/manifest+json") },
    { STR("jsonld"), STR("application/ld+json") },
    { STR("rss"), STR("application/rss+xml") },
    { STR("atom"), STR("application/atom+xml") },
    { STR("xhtml"), STR("application/xhtml+xml") },
    { STR("wasm"), STR("application/wasm") },
    { STR("pdf"), STR("application/pdf") },
    { STR("zip"), STR("application/zip") },
    { STR("gz"), STR("application/gzip") },
    { STR("br"), STR("application/octet-stream") },
    { STR("zst"), STR("application/zstd") },
    { STR("tar"), STR("application/x-tar") },
    { STR("7z"), STR("application/x-7z-compressed") },
    { STR("bz2"), STR("application/x-bzip2") },
    { STR("xz"), STR("application/x-xz") },
    { STR("rtf"), STR("application/rtf") },
    { STR("doc"), STR("application/msword") },
    { STR("docx"), STR("application/vnd.openxmlformats-officedocument.wordprocessingml.document") },
    { STR("xls"), STR("application/vnd.ms-excel") },
    { STR("xlsx"), STR("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet") },
    { STR("ppt"), STR("application/vnd.ms-powerpoint") },
    { STR("pptx"),
      STR("application/vnd.openxmlformats-officedocument.presentationml.presentation") },
    { STR("odt"), STR("application/vnd.oasis.opendocument.text") },
    { STR("ods"), STR("application/vnd.oasis.opendocument.spreadsheet") },
    { STR("epub"), STR("application/epub+zip") },
    { STR("png"), STR("image/png") },
    { STR("jpg"), STR("image/jpeg") },
    { STR("jpeg"), STR("image/jpeg") },
    { STR("gif"), STR("image/gif") },
    { STR("svg"), STR("image/svg+xml") },
    { STR("svgz"), STR("image/svg+xml") },
    { STR("webp"), STR("image/webp") },
    { STR("avif"), STR("image/avif") },
    { STR("bmp"), STR("image/bmp") },
    { STR("tif"), STR("image/tiff") },
    { STR("tiff"), STR("image/tiff") },
    { STR("apng"), STR("image/apng") },
    { STR("woff"), STR("font/woff") },
    { STR("woff2"), STR("font/woff2") },
    { STR("ttf"), STR("font/ttf") },
    { STR("otf"), STR("font/otf") },
    { STR("eot"), STR("application/vnd.ms-fontobject") },
    { STR("mp3"), STR("audio/mpeg") },
    { STR("m4a"), STR("audio/mp4") },
    { STR("ogg"), STR("audio/ogg") },
    { STR("oga"), STR("audio/ogg") },
    { STR("opus"), STR("audio/ogg") },
    { STR("wav"), STR("audio/x-wav") },
    { STR("flac"), STR("audio/flac") },
    { STR("mp4"), STR("video/mp4") },
    { STR("m4v"), STR("video/mp4") },
    { STR("webm"), STR("video/webm") },
    { STR("ogv"), STR("video/ogg") },
    { STR("mov"), STR("video/quicktime") },
    { STR("mpeg"), STR("video/mpeg") },
    { STR("avi"), STR("video/x-msvideo") },
    { STR("m3u8"), STR("application/vnd.apple.mpegurl") },
    { STR("jar"), STR("application/java-archive") },
    { STR("swf"), STR("application/x-shockwave-flash") },
    { STR("bin"), STR("application/octet-stream") },
};

/* Sorted by extension; where one stands several times the first is meant. */
static struct mime *table;
static size_t table_length;
static struct arena strings; /* types with their charset */

static void add(struct str extension, struct str type)
{
    if (extension.n == 0 || extension.n > EXTENSION_BYTES_MAX)
        return;
    if (table_length % 1024 == 0)
        table = mem_realloc(table, (table_length + 1024) * sizeof *table);
    table[table_length++] = (struct mime){ extension, type };
}

/* With the charset that text needs, or browsers guess one. A script or style sheet in another
 * encoding says so itself. */
static struct str with_charset(struct str type)
{
    bool text = str_has_prefix(type, STR("text/")) || str_eq(type, STR("application/javascript"));
    if (!text || str_find(type, ';') >= 0)
        return type;
    struct str charset = STR("; charset=utf-8");
    char *p = arena_alloc(&strings, type.n + charset.n);
    CHECKF(p != NULL, "out of memory at start");
    memcpy(p, type.p, type.n);
    memcpy(p + type.n, charset.p, charset.n);
    return (struct str){ p, type.n + charset.n };
}

static struct str next_word(struct str *line)
{
    while (line->n > 0 && (unsigned char)line->p[0] <= ' ')
        *line = str_skip(*line, 1);
    size_t n = 0;
    while (n < line->n && (unsigned char)line->p[n] > ' ')
        n++;
    struct str word = str_take(*line, n);
    *line = str_skip(*line, n);
    return word;
}

/* "type/subtype extension extension # comment". The text stays: the table points into it. */
static void read_system_types(void)
{
    char *text;
    size_t n;
    int fd = open("/etc/mime.types", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    int rc = fd_read_all(fd, MIME_FILE_BYTES_MAX, &text, &n);
    close(fd);
    if (rc < 0)
        return;
    for (struct str rest = { text, n }; rest.p != NULL;) {
        struct str line = str_cut(&rest, '\n');
        line = str_cut(&line, '#');
        struct str type = next_word(&line), extension;
        if (!http_is_field_value(type) || str_find(type, '/') < 0)
            continue;
        bool fresh = true;
        while ((extension = next_word(&line)).n > 0) {
            type = fresh ? with_charset(type) : type;
            fresh = false;
            add(extension, type);
        }
    }
}

static int compare(struct str a, struct str b)
{
    for (size_t i = 0; i < a.n && i < b.n; i++) {
        int d = (unsigned char)ascii_lower(a.p[i]) - (unsigned char)ascii_lower(b.p[i]);
        if (d != 0)
            return d;
    }
    return (a.n > b.n) - (a.n < b.n);
}

/* Stable by the address of the entries before sorting: the table is sorted through pointers. */
static int compare_entries(const void *a, const void *b)
{
    const struct mime *const *x = a, *const *y = b;
    int d = compare((*x)->extension, (*y)->extension);
    return d != 0 ? d : (*x > *y) - (*x < *y);
}

static void sort_table(void)
{
    const struct mime **order = mem_alloc(table_length * sizeof *order);
    struct mime *sorted = mem_alloc(table_length * sizeof *sorted);
    size_t n = 0;
    for (size_t i = 0; i < table_length; i++)
        order[i] = &table[i];
    qsort(order, table_length, sizeof *order, compare_entries);
    for (size_t i = 0; i < table_length; i++)
        if (n == 0 || compare(sorted[n - 1].extension, order[i]->extension) != 0)
            sorted[n++] = *order[i];
    mem_free(order);
    mem_free(table);
    table = sorted;
    table_length = n;
}

static void load(void)
{
    arena_init(&strings, 0);
    read_system_types();
    for (size_t i = 0; i < ARRAY_LENGTH(built_in); i++)
        add(built_in[i].extension, with_charset(built_in[i].type));
    sort_table();
}

struct str mime_type(struct str path)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    size_t at = path.n;
    pthread_once(&once, load);
    while (at > 0 && path.p[at - 1] != '.' && path.p[at - 1] != '/')
        at--;
    struct str extension = str_skip(path, at);
    size_t low = 0, high = at > 0 && path.p[at - 1] == '.' ? table_length : 0;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int d = compare(extension, table[middle].extension);
        if (d == 0)
            return table[middle].type;
        if (d < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return STR("application/octet-stream");
}
