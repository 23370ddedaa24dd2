/*
 * What requests load after the image: classes, functions, files, shared objects, locales. All of it
 * is gone with the rollback and loaded again by the next request that needs it, so it belongs into
 * the next image (learned.c). Looked at once at the end of each request; where the tables are as
 * long as they were in the image there is nothing to do.
 *
 * What is noted goes into the report of the generation (channel/report.h), by name and by route: a
 * route is the method and the path, with `*` for segments that look like a number or an id.
 */
#include "php/engine/engine_int.h"

#include <dlfcn.h>
#include <link.h>
#include <locale.h>
#include <unistd.h>

/* Where the image ends. Ordinary memory: as in the image, for every request. */
static struct {
    struct report *report; /* NULL: none is kept */
    char folder[1024];     /* of the project: names of files below it begin with "@/" */
    uint32_t classes, functions, files;
    unsigned long long objects_added; /* shared ones, over all time */
    uint32_t objects;
    char locale[256];
    uint64_t compiled; /* scripts that were not in opcache, since the start of the process */
} image;

static uint64_t compiled OF_REQUEST;
static zend_op_array *(*compile_really)(zend_file_handle *handle, int type);

/* Installed before opcache takes the function over: it runs only for what opcache does not have. */
static zend_op_array *compile_and_count(zend_file_handle *handle, int type)
{
    compiled++;
    return compile_really(handle, type);
}

void late_install(void)
{
    compile_really = zend_compile_file;
    zend_compile_file = compile_and_count;
}

struct report *late_report(void)
{
    return image.report;
}

/* --- shared objects --------------------------------------------------------------------------- */

struct objects {
    unsigned long long added;
    uint32_t n, skip;
    void (*see)(const char *path);
};

static int count_objects(struct dl_phdr_info *info, size_t size, void *context)
{
    struct objects *o = context;

    (void)size;
    o->added = info->dlpi_adds;
    if (!o->see)
        return 1; /* the first one tells how many there have been */
    if (o->n++ >= o->skip && info->dlpi_name && info->dlpi_name[0] == '/')
        o->see(info->dlpi_name);
    return 0;
}

static int length_of_list(struct dl_phdr_info *info, size_t size, void *context)
{
    (void)info, (void)size;
    ++*(uint32_t *)context;
    return 0;
}

/* --- names of files --------------------------------------------------------------------------- */

/* Releases lie in folders of their own: what is below the project's folder is named from there. */
struct str late_name_of(struct str path, char out[REPORT_TEXT_BYTES])
{
    size_t n = strlen(image.folder);

    if (n < 2 || path.n <= n || path.n - n + 2 > REPORT_TEXT_BYTES || path.p[n] != '/' ||
        memcmp(path.p, image.folder, n) != 0)
        return path;
    out[0] = '@';
    memcpy(out + 1, path.p + n, path.n - n);
    return (struct str){ out, path.n - n + 1 };
}

bool late_path_of(struct str name, char *out, size_t size)
{
    bool below = name.n > 1 && name.p[0] == '@';
    int n = snprintf(out, size, "%s%.*s", below ? image.folder : "",
                     STR_ARG(str_skip(name, below ? 1 : 0)));

    return n > 0 && (size_t)n < size && out[0] == '/';
}

/* --- what is new ------------------------------------------------------------------------------ */

/* Of one request. */
static struct {
    uint32_t names;
    bool untried; /* one that no generation has tried to load before its image */
} found OF_REQUEST;

static void note(enum report_kind kind, struct str name)
{
    struct report *r = image.report;
    bool made = false;
    struct report_entry *e = report_note(r->names, REPORT_NAMES, kind, 0, name, &made);

    found.names++;
    if (!e) {
        report_add(&r->count.dropped_names, 1);
        return;
    }
    if (made)
        report_add(&r->count.names_new, 1);
    uint32_t flags = atomic_load_explicit(&e->flags, memory_order_relaxed);
    if (kind == REPORT_LOCALE && (flags & (REPORT_TRIED | REPORT_BANNED)) == REPORT_TRIED)
        found.names--;             /* set by the request, but read before the image */
    if (kind != REPORT_FUNCTION && /* comes with its file */
        !(flags & REPORT_TRIED) &&
        atomic_load_explicit(&e->count, memory_order_relaxed) >= LEARNED_LEAST)
        found.untried = true;
}

static void note_library(const char *path)
{
    note(REPORT_LIBRARY, str_from(path));
}

static bool is_evaluated(const zend_string *filename)
{
    return !filename || strstr(ZSTR_VAL(filename), "eval()'d code") != NULL;
}

static void note_classes(void)
{
    const HashTable *t = EG(class_table);

    for (uint32_t i = image.classes; i < t->nNumUsed; i++) {
        const Bucket *b = t->arData + i;
        if (Z_TYPE(b->val) != IS_PTR || !b->key || ZSTR_VAL(b->key)[0] == '\0')
            continue; /* an alias comes with its class; the other keys are those of declarations */
        const zend_class_entry *ce = Z_PTR(b->val);
        if (ce->type == ZEND_USER_CLASS && !(ce->ce_flags & ZEND_ACC_ANON_CLASS) &&
            !is_evaluated(ce->info.user.filename))
            note(REPORT_CLASS, (struct str){ ZSTR_VAL(ce->name), ZSTR_LEN(ce->name) });
    }
}

static void note_functions(void)
{
    const HashTable *t = EG(function_table);

    for (uint32_t i = image.functions; i < t->nNumUsed; i++) {
        const Bucket *b = t->arData + i;
        if (Z_TYPE(b->val) != IS_PTR || !b->key || ZSTR_VAL(b->key)[0] == '\0')
            continue;
        const zend_function *f = Z_PTR(b->val);
        if (f->type == ZEND_USER_FUNCTION && !is_evaluated(f->op_array.filename))
            note(REPORT_FUNCTION, (struct str){ ZSTR_VAL(f->common.function_name),
                                                ZSTR_LEN(f->common.function_name) });
    }
}

static void note_files(void)
{
    char text[REPORT_TEXT_BYTES];

    for (uint32_t i = image.files; i < EG(included_files).nNumUsed; i++) {
        const zend_string *key = EG(included_files).arData[i].key;
        if (key && ZSTR_VAL(key)[0] == '/')
            note(REPORT_FILE, late_name_of((struct str){ ZSTR_VAL(key), ZSTR_LEN(key) }, text));
    }
}

static bool note_libraries(void)
{
    struct objects o = { 0 };

    dl_iterate_phdr(count_objects, &o);
    if (o.added == image.objects_added)
        return false;
    o = (struct objects){ .skip = image.objects, .see = note_library };
    dl_iterate_phdr(count_objects, &o);
    return true;
}

static void note_names(void)
{
    const char *locale = setlocale(LC_ALL, NULL);

    if (EG(class_table)->nNumUsed != image.classes)
        note_classes();
    if (EG(function_table)->nNumUsed != image.functions)
        note_functions();
    if (EG(included_files).nNumUsed != image.files)
        note_files();
    if (locale && strcmp(locale, image.locale) != 0)
        note(REPORT_LOCALE, str_from(locale));
    note_libraries();
}

/* --- routes ----------------------------------------------------------------------------------- */

/* A number, or something with digits that is too long or too mixed to be a word: an id. */
static bool is_id(struct str segment)
{
    size_t digits = 0, hex = 0;

    for (size_t i = 0; i < segment.n; i++) {
        digits += segment.p[i] >= '0' && segment.p[i] <= '9';
        hex += hex_value(segment.p[i]) >= 0 || segment.p[i] == '-';
    }
    return digits > 0 &&
           (digits == segment.n || (hex == segment.n && segment.n >= 8) || segment.n >= 20);
}

struct str late_route_name(struct str method, struct str path, char *out, size_t size)
{
    enum { SEGMENTS = 5 };
    size_t n = (size_t)snprintf(out, size, "%.*s ", STR_ARG(str_take(method, 16)));

    (void)str_cut(&path, '/');
    for (int i = 0; path.p; i++) {
        struct str segment = str_cut(&path, '/');
        if (i == SEGMENTS)
            segment = STR("...");
        else if (is_id(segment))
            segment = STR("*");
        if (n + 1 + segment.n >= size)
            break;
        out[n++] = '/';
        for (size_t k = 0; k < segment.n; k++) {
            char c = segment.p[k];
            out[n++] = c > 0x20 && c < 0x7f && c != '"' && c != '\\' ? c : '?';
        }
        if (i == SEGMENTS)
            break;
    }
    return (struct str){ out, n };
}

static uint32_t find_route(struct report *r)
{
    struct str path = request.view.target;
    char text[160];

    path = str_cut(&path, '?');
    return report_find_route(r, late_route_name(request.view.method, path, text, sizeof(text)));
}

/* --- the image, a request --------------------------------------------------------------------- */

void late_begin(const struct engine_worker *w, const struct engine_image *i)
{
    const char *root = w->loop && w->loop->document_root ? w->loop->document_root : "";
    const char *slash = strrchr(root, '/');
    char text[PATH_MAX];

    image.report = i->report;
    int n =
        snprintf(text, sizeof(text), "%.*s/composer.json", slash ? (int)(slash - root) : 0, root);
    bool above = n > 0 && (size_t)n < sizeof(text) && access(text, F_OK) == 0;
    snprintf(image.folder, sizeof(image.folder), "%.*s",
             above ? (int)(slash - root) : (int)strlen(root), root);
}

void late_record(void)
{
    struct objects o = { 0 };
    const char *locale = setlocale(LC_ALL, NULL);

    image.classes = EG(class_table)->nNumUsed;
    image.functions = EG(function_table)->nNumUsed;
    image.files = EG(included_files).nNumUsed;
    dl_iterate_phdr(count_objects, &o);
    image.objects_added = o.added;
    image.objects = 0;
    dl_iterate_phdr(length_of_list, &image.objects);
    snprintf(image.locale, sizeof(image.locale), "%s", locale ? locale : "");
    image.compiled = compiled;
}

uint32_t late_note(void)
{
    struct report *r = image.report;

    if (!r)
        return REPORT_ROUTES;
    uint32_t route = find_route(r);
    struct report_route *numbers = &r->routes[route];
    if (compiled != image.compiled) {
        report_add(&r->count.compiled, compiled - image.compiled);
        report_add(&numbers->compiled, compiled - image.compiled);
    }
    found.names = 0;
    found.untried = false;
    note_names();
    if (!found.names)
        return route;
    report_add(&r->count.requests_late, 1);
    report_add(&numbers->late_requests, 1);
    report_add(&numbers->late_names, found.names);
    if (found.untried)
        report_add(&r->count.requests_late_new, 1);
    return route;
}
