/*
 * A whole configuration from any bytes: the file, then overrides of the command line, all ended by
 * NUL. What was accepted must be printed as a file that is accepted again.
 */
#include <errno.h>

#include "base/buf.h"
#include "base/mem.h"
#include "config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OVERRIDES_MAX = 16 };

static void put(void *ctx, const char *text)
{
    CHECK(buf_append(ctx, text, strlen(text)) == 0);
}

static void check_errors(const struct config *c, const struct config_errors *errors)
{
    CHECK(errors->n > 0);
    for (uint32_t i = 0; i < errors->n; i++) {
        char *line = config_error_line(c, &errors->v[i]);
        CHECK(*line);
        mem_free(line);
    }
}

static void check_printed_again(const struct config *c)
{
    struct buf out;
    struct config *again;
    struct config_errors errors;

    buf_init(&out, 0);
    config_print_effective(c, put, &out);
    int rc = config_load(STR("again"), buf_view(&out), NULL, STR("/srv"), &again, &errors);
    CHECKF(rc == 0, "%.*s", STR_ARG(errors.n ? errors.v[0].message : STR("out of memory")));
    config_free(again);
    buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config *c;
    struct config_errors errors;
    const char *overrides[OVERRIDES_MAX + 1];
    char *copy = mem_strndup((struct str){ (const char *)data, size }); /* ends with a NUL */
    struct str rest = { copy, size };
    struct str text = str_cut(&rest, '\0');
    size_t n = 0;

    while (rest.p && n < OVERRIDES_MAX) {
        overrides[n++] = rest.p;
        str_cut(&rest, '\0');
    }
    overrides[n] = NULL;
    int rc = config_load(STR("fuzz.toml"), text, overrides, STR("/srv"), &c, &errors);
    CHECK(rc == 0 || rc == -EINVAL || rc == -ENOMEM);
    if (rc == -EINVAL)
        check_errors(c, &errors);
    if (rc == 0 && n == 0) /* a command line need not be UTF-8, a file must */
        check_printed_again(c);
    config_free(c);
    mem_free(copy);
    return 0;
}
