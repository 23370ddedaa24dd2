/*
 * The TOML parser against the toml-test suite (tests/toml: valid files with their value as JSON,
 * and files that have to be refused), and its messages and places.
 */
#include <errno.h>
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "config/config.h"
#include "test.h"

#include <fcntl.h>

/* ---- a JSON reader that compares as it goes
 * ------------------------------------------------------- */

struct json {
    const char *at, *end;
    const char *file;
    struct arena arena;
};

static void json_skip(struct json *j)
{
    while (j->at < j->end && strchr(" \t\r\n", *j->at))
        j->at++;
}

static bool json_take(struct json *j, char c)
{
    json_skip(j);
    if (j->at >= j->end || *j->at != c)
        return false;
    j->at++;
    return true;
}

static unsigned json_hex4(struct json *j)
{
    char text[5] = { 0 };

    memcpy(text, j->at, 4);
    j->at += 4;
    return (unsigned)strtoul(text, NULL, 16);
}

static size_t json_unicode(struct json *j, char *out)
{
    unsigned code = json_hex4(j);

    if (code >= 0xD800 && code < 0xDC00) {
        CHECK(j->at[0] == '\\' && j->at[1] == 'u');
        j->at += 2;
        code = 0x10000 + ((code - 0xD800) << 10) + (json_hex4(j) - 0xDC00);
    }
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; code >>= 6)
        out[i] = (char)(0x80 | (code & 0x3F));
    out[0] = (char)((n == 2 ? 0xC0 : n == 3 ? 0xE0 : 0xF0) | code);
    return n;
}

static struct str json_string(struct json *j)
{
    char *out = arena_alloc(&j->arena, (size_t)(j->end - j->at) + 1);
    size_t n = 0;

    CHECK(out);
    EXPECT(json_take(j, '"'));
    while (*j->at != '"') {
        if (*j->at != '\\') {
            out[n++] = *j->at++;
            continue;
        }
        char c = j->at[1];
        j->at += 2;
        static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
        const char *hit = strchr(from, c);
        if (c == 'u')
            n += json_unicode(j, out + n);
        else
            out[n++] = hit ? to[hit - from] : c;
    }
    j->at++;
    return (struct str){ out, n };
}

static const char *const type_names[] = {
    "string", "integer", "float", "bool", "datetime", "datetime-local", "date-local", "time-local"
};

/* The fraction of a second without zeros at its end. */
static struct str without_zeros(struct json *j, struct str s)
{
    struct str copy = arena_copy(&j->arena, s);
    ptrdiff_t dot = str_find(copy, '.');
    size_t end, digits;

    if (dot < 0)
        return copy;
    for (end = (size_t)dot + 1; end < copy.n && copy.p[end] >= '0' && copy.p[end] <= '9'; end++)
        ;
    for (digits = end; copy.p[digits - 1] == '0'; digits--)
        ;
    if (copy.p[digits - 1] == '.')
        digits--;
    memmove((char *)copy.p + digits, copy.p + end, copy.n - end);
    copy.n -= end - digits;
    return copy;
}

static void compare_scalar(struct json *j, struct str type, struct str value,
                           const struct toml_value *v)
{
    EXPECT((size_t)v->type < ARRAY_LENGTH(type_names));
    EXPECT_STR(str_from(type_names[v->type]), type);
    switch (v->type) {
    case TOML_STRING: EXPECT_STR(v->string, value); break;
    case TOML_INTEGER:
        EXPECT_INT(v->integer, strtoll(arena_copy(&j->arena, value).p, NULL, 10));
        break;
    case TOML_BOOLEAN: EXPECT_STR(v->boolean ? STR("true") : STR("false"), value); break;
    case TOML_FLOAT: {
        double want = strtod(arena_copy(&j->arena, value).p, NULL);
        EXPECT(want == v->number || (isnan(want) && isnan(v->number)));
        break;
    }
    default: EXPECT_STR(without_zeros(j, v->string), without_zeros(j, value));
    }
}

static void compare(struct json *j, const struct toml_value *v);

static void compare_object(struct json *j, const struct toml_value *v)
{
    struct str type = STR_NONE, value = STR_NONE;
    const char *start = j->at;
    unsigned members = 0, children = 0;

    /* {"type": ..., "value": ...} with two strings is a scalar. */
    if (!json_take(j, '}')) {
        bool scalar = true;
        for (int i = 0; i < 2 && scalar; i++) {
            struct str name = json_string(j);
            scalar = json_take(j, ':') && (json_skip(j), *j->at == '"');
            if (scalar && str_eq(name, STR("type")))
                type = json_string(j);
            else if (scalar && str_eq(name, STR("value")))
                value = json_string(j);
            else
                scalar = false;
            scalar = scalar && json_take(j, i ? '}' : ',');
        }
        if (scalar && type.p && value.p && v->type != TOML_TABLE) {
            compare_scalar(j, type, value, v);
            return;
        }
        j->at = start;
        EXPECT_INT(v->type, TOML_TABLE);
        do {
            struct str name = json_string(j);
            const struct toml_value *child = toml_get(v, name);
            if (!child)
                test_fail(__FILE__, __LINE__, "%s: no key \"%.*s\"", j->file, STR_ARG(name));
            EXPECT(json_take(j, ':'));
            compare(j, child);
            members++;
        } while (json_take(j, ','));
        EXPECT(json_take(j, '}'));
    }
    EXPECT_INT(v->type, TOML_TABLE);
    for (const struct toml_value *c = v->first; c; c = c->next)
        children++;
    EXPECT_INT(children, members);
}

static void compare(struct json *j, const struct toml_value *v)
{
    if (json_take(j, '{')) {
        compare_object(j, v);
        return;
    }
    EXPECT(json_take(j, '['));
    EXPECT_INT(v->type, TOML_ARRAY);
    const struct toml_value *c = v->first;
    if (!json_take(j, ']')) {
        do {
            EXPECT(c != NULL);
            compare(j, c);
            c = c->next;
        } while (json_take(j, ','));
        EXPECT(json_take(j, ']'));
    }
    EXPECT(c == NULL);
}

/* ---- the suite
 * ------------------------------------------------------------------------------------ */

static unsigned n_files;

/* A copy that ends at a forbidden page. */
static struct str read_file(const char *path)
{
    char *text;
    size_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    EXPECT(fd >= 0);
    EXPECT_INT(fd_read_all(fd, 1 << 20, &text, &n), 0);
    close(fd);
    struct str copy = test_guarded((struct str){ text, n });
    mem_free(text);
    return copy;
}

static bool is_toml(const char *path, int type)
{
    return type == FTW_F && str_has_suffix(str_from(path), STR(".toml"));
}

static int run_valid(const char *path, const struct stat *st UNUSED, int type,
                     struct FTW *ftw UNUSED)
{
    struct arena arena;
    struct toml_value *root;
    struct config_error error;

    if (!is_toml(path, type))
        return 0;
    arena_init(&arena, 0);
    struct str text = read_file(path);
    if (toml_parse(&arena, text, &root, &error) < 0)
        test_fail(__FILE__, __LINE__, "%s:%u:%u: %.*s", path, error.line, error.column,
                  STR_ARG(error.message));
    char *json_path = mem_printf("%.*sjson", (int)strlen(path) - 4, path);
    struct str json = read_file(json_path);
    struct json j = { json.p, json.p + json.n, path, { 0 } };
    printf("  comparing %s\n", path);
    compare(&j, root);
    json_skip(&j);
    EXPECT(j.at == j.end);
    mem_free(json_path);
    arena_reset(&j.arena);
    arena_reset(&arena);
    n_files++;
    return 0;
}

static int run_invalid(const char *path, const struct stat *st UNUSED, int type,
                       struct FTW *ftw UNUSED)
{
    struct arena arena;
    struct toml_value *root;
    struct config_error error;

    if (!is_toml(path, type))
        return 0;
    arena_init(&arena, 0);
    struct str text = read_file(path);
    if (toml_parse(&arena, text, &root, &error) == 0)
        test_fail(__FILE__, __LINE__, "%s was accepted", path);
    EXPECT(error.line > 0 && error.column > 0 && error.message.n > 0);
    arena_reset(&arena);
    n_files++;
    return 0;
}

TEST_WITHIN(toml_suite_valid_files_give_their_values, 300)
{
    EXPECT_INT(nftw(TOML_TESTS "/valid", run_valid, 16, FTW_PHYS), 0);
    EXPECT(n_files > 150);
}

TEST_WITHIN(toml_suite_invalid_files_are_refused, 300)
{
    EXPECT_INT(nftw(TOML_TESTS "/invalid", run_invalid, 16, FTW_PHYS), 0);
    EXPECT(n_files > 300);
}
