/*
 * The command line of `sapid serve`: every option is a key of the configuration in other words.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "supervisor/supervisor_int.h"

static const struct {
    const char *option, *key;
} with_value[] = {
    { "--root", "php.document_root" },
    { "--listen", "server.listen" },
    { "--workers", "php.worker_pool_size" },
    { "--worker", "worker.script" },
};

static void add_override(struct options *o, char *text)
{
    size_t n = 0;

    while (o->overrides && o->overrides[n])
        n++;
    o->overrides = mem_realloc(o->overrides, (n + 2) * sizeof(*o->overrides));
    o->overrides[n] = text;
    o->overrides[n + 1] = NULL;
}

static int refuse(void (*say)(const char *), char *line)
{
    say(line);
    mem_free(line);
    return -EINVAL;
}

/* "--root=DIR" or "--root DIR"; NULL when it is another option. `*at` moves past what was used. */
static const char *value_of(const char *option, int argc, char **argv, int *at)
{
    size_t n = strlen(option);

    if (strncmp(argv[*at], option, n) != 0)
        return NULL;
    if (argv[*at][n] == '=')
        return argv[*at] + n + 1;
    if (argv[*at][n] != '\0' || *at + 1 >= argc)
        return NULL;
    return argv[++*at];
}

static int parse_one(int argc, char **argv, int *at, void (*say)(const char *), struct options *o)
{
    const char *value = value_of("--config", argc, argv, at);

    if (value) {
        mem_free(o->config_path);
        char *found = realpath(value, NULL);
        if (!found)
            return refuse(say, mem_printf("--config %s: %s", value, strerror(errno)));
        o->config_path = mem_strdup(found);
        free(found);
        return 0;
    }
    for (size_t i = 0; i < ARRAY_LENGTH(with_value); i++) {
        value = value_of(with_value[i].option, argc, argv, at);
        if (value) {
            add_override(o, mem_printf("%s=%s", with_value[i].key, value));
            return 0;
        }
    }
    return refuse(say, mem_printf("serve: expected an option with its value, found \"%s\"; `sapid "
                                  "--help` lists them", argv[*at]));
}

int options_parse(int argc, char **argv, void (*say)(const char *line), struct options *ret)
{
    char cwd[4096];

    memset(ret, 0, sizeof(*ret));
    ret->overrides = mem_zalloc(sizeof(char *));
    for (int i = 1; i < argc; i++) {
        int r = parse_one(argc, argv, &i, say, ret);
        if (r < 0)
            return r;
    }
    if (ret->config_path) {
        ret->base_dir = mem_strdup(ret->config_path);
        strrchr(ret->base_dir, '/')[ret->base_dir[1] ? 0 : 1] = '\0';
    } else if (getcwd(cwd, sizeof(cwd))) {
        ret->base_dir = mem_strdup(cwd);
    } else {
        return refuse(say, mem_printf("the working directory: %s", strerror(errno)));
    }
    return 0;
}

void options_free(struct options *o)
{
    for (char **it = o->overrides; it && *it; it++)
        mem_free(*it);
    mem_free(o->overrides);
    mem_free(o->config_path);
    mem_free(o->base_dir);
    mem_free(o->detected);
    memset(o, 0, sizeof(*o));
}
