/*
 * What `sapid perf` is asked for: the command line of its four commands, read by one table.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "tools/perf_int.h"

enum { ROUNDS_MAX = 1000, BLOCKS_MIN = 5, BLOCKS_MAX = 1000, PHP_RATE_MAX = 10000 };

const char perf_help[] =
    "sapid perf run|track|compare|profile [OPTIONS]: measure a server, and tell change from noise\n"
    "\n"
    "  run               start the server, see that it answers 200, load it, report, stop it\n"
    "  track             run; then compare with the baseline, in turns A B B A within the same\n"
    "                    minutes, and keep the figures; exit status 3 when it regressed\n"
    "  compare A B       two programs, or two commits of this repository (built when needed)\n"
    "  profile           where the time goes, while it is loaded: C and PHP stacks, flame graphs\n"
    "server:\n"
    "  --root DIR        the document root (else what `sapid serve` finds by itself)\n"
    "  --config FILE     its configuration\n"
    "  --path PATH       what to ask for (/)\n"
    "  --program FILE    the sapid to measure (this one)\n"
    "  --serve-arg ARG   a further argument of `sapid serve`; repeatable\n"
    "  --build COMMAND   what builds it, run first (and for a commit: ./run --build)\n"
    "  --listen ADDR     where it listens (a free port of 127.0.0.1)\n"
    "  --url URL         a server that runs already: nothing is started; run and profile only\n"
    "  --pid PID         its first process, for its CPU time and memory\n"
    "load:\n"
    "  --loads LIST      of light (1 thread, 10 connections), medium (2, 100), heavy (4, 500),\n"
    "                    extreme (8, 1000); all\n"
    "  --rounds N        how often each, in turns (3)\n"
    "  --duration TIME   length of one load (3s)\n"
    "  --warmup TIME     load before the first round and each block (1s)\n"
    "  --timeout TIME    limit of an answer (10s)\n"
    "verdict (track, compare):\n"
    "  --baseline NAME   program or commit; else the one kept in the history\n"
    "  --set-baseline    keep this program as the baseline from now on\n"
    "  --blocks N        both servers started afresh, then loads A B B A (12)\n"
    "  --max-blocks N    as long as the figures are vague (48)\n"
    "  --turns N         A B B A how often in a block (10)\n"
    "  --slice TIME      length of each of those loads (50ms)\n"
    "  --no-pinning      let the kernel choose who runs on which processor\n"
    "  --verdict-load NAME  which load profile (medium)\n"
    "  --history DIR     former runs and the baseline (perf/history)\n"
    "profile:\n"
    "  --output DIR      where the stacks and flame graphs go (perf/profile)\n"
    "  --stacks LIST     of c (needs Linux perf), php; both\n"
    "  --frequency N     samples a second, of C stacks (499)\n"
    "  --php-rate N      samples a second and worker, of PHP stacks (2000)\n"
    "report:\n"
    "  --format FORMAT   text, kv (key=value) or json (text)\n"
    "  --help\n"
    "Exit status: 0 well, 1 something failed or was answered wrongly, 2 wrong usage, 3 regress.\n";

enum option {
    ROOT,
    CONFIG,
    PATH,
    PROGRAM,
    SERVE_ARG,
    BUILD,
    LISTEN,
    OPTION_URL,
    PID,
    LOADS,
    ROUNDS,
    DURATION,
    WARMUP,
    BASELINE,
    SET_BASELINE,
    BLOCKS,
    MAX_BLOCKS,
    TIMEOUT,
    TURNS,
    NO_PINNING,
    SLICE,
    VERDICT_LOAD,
    HISTORY,
    OUTPUT,
    STACKS,
    FREQUENCY,
    PHP_RATE,
    FORMAT,
    HELP,
};

static const struct bench_option known[] = {
    [ROOT] = { "--root", "a folder" },
    [CONFIG] = { "--config", "a file" },
    [PATH] = { "--path", "a path such as /index.php?a=1, without spaces (write %20)" },
    [PROGRAM] = { "--program", "an executable file" },
    [SERVE_ARG] = { "--serve-arg", "an argument of sapid serve" },
    [BUILD] = { "--build", "a shell command" },
    [LISTEN] = { "--listen", "an address such as 127.0.0.1:8080" },
    [OPTION_URL] = { "--url", "a URL such as http://127.0.0.1:8080/" },
    [PID] = { "--pid", "the id of a process that runs" },
    [LOADS] = { "--loads", "some of light,medium,heavy,extreme" },
    [ROUNDS] = { "--rounds", "a whole number from 1 to 1000" },
    [DURATION] = { "--duration", "a time above 0 such as 3s" },
    [WARMUP] = { "--warmup", "a time such as 1s" },
    [BASELINE] = { "--baseline", "a program or a commit" },
    [SET_BASELINE] = { "--set-baseline", NULL },
    [BLOCKS] = { "--blocks", "a whole number from 5 to 1000 (fewer prove nothing)" },
    [MAX_BLOCKS] = { "--max-blocks", "a whole number from 5 to 1000" },
    [TIMEOUT] = { "--timeout", "a time above 0 such as 10s" },
    [TURNS] = { "--turns", "a whole number from 1 to 1000" },
    [NO_PINNING] = { "--no-pinning", NULL },
    [SLICE] = { "--slice", "a time above 0 such as 500ms" },
    [VERDICT_LOAD] = { "--verdict-load", "light, medium, heavy or extreme" },
    [HISTORY] = { "--history", "a folder" },
    [OUTPUT] = { "--output", "a folder" },
    [STACKS] = { "--stacks", "c, php or c,php" },
    [FREQUENCY] = { "--frequency", "a number above 0 and up to 10000" },
    [PHP_RATE] = { "--php-rate", "a whole number from 1 to 10000" },
    [FORMAT] = { "--format", "text, kv or json" },
    [HELP] = { "--help", NULL },
};

static bool replace(char **at, const char *text)
{
    mem_free(*at);
    *at = mem_strdup(text);
    return *text != '\0';
}

static const struct perf_load *find_load(struct str name)
{
    for (size_t i = 0; i < PERF_LOADS; i++)
        if (str_eq(name, str_from(perf_loads[i].name)))
            return &perf_loads[i];
    return NULL;
}

static bool set_loads(struct perf_options *o, const char *value)
{
    struct str rest = str_from(value);

    memset(o->loads, 0, sizeof(o->loads));
    do {
        const struct perf_load *load = find_load(str_cut(&rest, ','));
        if (!load)
            return false;
        o->loads[load - perf_loads] = true;
    } while (rest.p);
    return true;
}

static bool set_stacks(struct perf_options *o, const char *value)
{
    struct str rest = str_from(value);

    o->wants_c = o->wants_php = false;
    do {
        struct str name = str_cut(&rest, ',');
        if (str_eq(name, STR("c")))
            o->wants_c = true;
        else if (str_eq(name, STR("php")))
            o->wants_php = true;
        else
            return false;
    } while (rest.p);
    return true;
}

static bool set_number(const char *value, uint64_t min, uint64_t max, uint32_t *ret)
{
    uint64_t n;

    if (!str_to_u64(str_from(value), max, &n) || n < min)
        return false;
    *ret = (uint32_t)n;
    return true;
}

static bool set_program(struct perf_options *o, const char *value)
{
    char path[PATH_MAX];

    return access(value, X_OK) == 0 && realpath(value, path) && replace(&o->program, path);
}

static void add_serve_arg(struct perf_options *o, const char *value)
{
    o->serve_args = mem_realloc(o->serve_args, (o->n_serve_args + 1) * sizeof(*o->serve_args));
    o->serve_args[o->n_serve_args++] = mem_strdup(value);
}

/* As it stands in a request line. */
static bool is_path(const char *text)
{
    if (text[0] != '/')
        return false;
    while (*text > ' ' && *text <= '~')
        text++;
    return *text == '\0';
}

static bool is_process(pid_t pid)
{
    char path[32];

    snprintf(path, sizeof(path), "/proc/%d", (int)pid);
    return access(path, F_OK) == 0;
}

/* Of the server. False when the value is not what `known` says. */
static bool set_server_option(struct perf_options *o, enum option option, const char *value)
{
    uint32_t n = 0;
    bool ok;

    switch (option) {
    case ROOT: return replace(&o->root, value);
    case CONFIG: return replace(&o->config, value);
    case PATH: return is_path(value) && replace(&o->path, value);
    case PROGRAM: return set_program(o, value);
    case SERVE_ARG: add_serve_arg(o, value); return true;
    case BUILD: return replace(&o->build, value);
    case LISTEN: return replace(&o->listen, value);
    case OPTION_URL: return replace(&o->url, value);
    case PID:
        ok = set_number(value, 1, INT32_MAX, &n);
        o->pid = (pid_t)n;
        return ok && is_process(o->pid);
    default: CHECKF(false, "option %d", (int)option);
    }
}

static bool set_option(struct perf_options *o, enum option option, const char *value)
{
    switch (option) {
    case LOADS: return set_loads(o, value);
    case ROUNDS: return set_number(value, 1, ROUNDS_MAX, &o->rounds);
    case DURATION: return bench_parse_time(value, &o->duration_ns) && o->duration_ns > 0;
    case WARMUP: return bench_parse_time(value, &o->warmup_ns);
    case BASELINE: return replace(&o->baseline, value);
    case SET_BASELINE: o->set_baseline = true; return true;
    case BLOCKS: return set_number(value, BLOCKS_MIN, BLOCKS_MAX, &o->blocks);
    case MAX_BLOCKS: return set_number(value, BLOCKS_MIN, BLOCKS_MAX, &o->max_blocks);
    case TIMEOUT: return bench_parse_time(value, &o->timeout_ns) && o->timeout_ns > 0;
    case NO_PINNING: o->no_pinning = true; return true;
    case TURNS: return set_number(value, 1, 1000, &o->turns);
    case SLICE: return bench_parse_time(value, &o->slice_ns) && o->slice_ns > 0;
    case VERDICT_LOAD: o->verdict_load = find_load(str_from(value)); return o->verdict_load != NULL;
    case HISTORY: return replace(&o->history, value);
    case OUTPUT: return replace(&o->output, value);
    case STACKS: return set_stacks(o, value);
    case PHP_RATE: return set_number(value, 1, PHP_RATE_MAX, &o->php_rate);
    case FREQUENCY: return bench_parse_number(value, 10000, &o->frequency);
    case FORMAT: return bench_parse_format(value, &o->format);
    case HELP: o->help = true; return true;
    default: return set_server_option(o, option, value);
    }
}

static int take_argument(int argc, char **argv, int *at, struct perf_options *o, char **ret_message)
{
    const char *arg = argv[*at], *value;

    if (arg[0] != '-') {
        char **free_place = !o->candidates[0] ? &o->candidates[0] : &o->candidates[1];
        if (o->command != PERF_COMPARE || *free_place) {
            *ret_message = mem_printf("unexpected argument %s; `sapid perf --help` lists what is "
                                      "understood",
                                      arg);
            return -EINVAL;
        }
        replace(free_place, arg);
        return 0;
    }
    int option =
        bench_option_take(argc, argv, at, known, ARRAY_LENGTH(known), "perf", &value, ret_message);
    if (option < 0)
        return option;
    if (set_option(o, (enum option)option, value))
        return 0;
    *ret_message = bench_option_wrong(&known[option], value);
    return -EINVAL;
}

/* As the load generator will, only sooner. */
static int check_url(const struct perf_options *o, char **ret_message)
{
    char *argv[] = { "bench", o->url, NULL }, *message = NULL;
    struct bench_options b;
    int rc = bench_options_parse(2, argv, &b, &message);

    if (rc < 0)
        *ret_message = mem_printf("--url: %s", message);
    mem_free(message);
    bench_options_fini(&b);
    return rc;
}

static int check_together(const struct perf_options *o, char **ret_message)
{
    const char *wrong = NULL;

    if (o->help)
        return 0;
    if (o->command == PERF_COMPARE && !o->candidates[1])
        wrong = "compare needs two programs or commits: sapid perf compare A B";
    else if (o->url && (o->command == PERF_COMPARE || o->command == PERF_TRACK))
        wrong = "--url names a server that runs already; track and compare start their own";
    else if (o->url && strncasecmp(o->url, "https:", 6) == 0)
        wrong = "--url: expected http://; sapid bench speaks TLS, sapid perf does not";
    else if (o->pid && !o->url)
        wrong = "--pid goes with --url";
    if (!wrong)
        return o->url ? check_url(o, ret_message) : 0;
    *ret_message = mem_strdup(wrong);
    return -EINVAL;
}

static int set_command(const char *name, struct perf_options *o, char **ret_message)
{
    static const char *const names[] = { [PERF_RUN] = "run",
                                         [PERF_TRACK] = "track",
                                         [PERF_COMPARE] = "compare",
                                         [PERF_PROFILE] = "profile" };

    for (size_t i = 0; i < ARRAY_LENGTH(names); i++)
        if (name && strcmp(name, names[i]) == 0) {
            o->command = (enum perf_command)i;
            return 0;
        }
    o->help = name && (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0);
    if (o->help)
        return 0;
    *ret_message = mem_printf("perf: expected run, track, compare or profile%s%s",
                              name ? ", found " : "", name ? name : "");
    return -EINVAL;
}

int perf_options_parse(int argc, char **argv, struct perf_options *o, char **ret_message)
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    *ret_message = NULL;
    *o = (struct perf_options){ .loads = { true, true, true, true },
                                .verdict_load = &perf_loads[1],
                                .rounds = 3,
                                .blocks = 12,
                                .max_blocks = 48,
                                .duration_ns = 3 * NS_PER_S,
                                .warmup_ns = NS_PER_S,
                                .turns = 10,
                                .timeout_ns = 10 * NS_PER_S,
                                .slice_ns = 50 * NS_PER_MS,
                                .frequency = 499,
                                .php_rate = 2000,
                                .wants_c = true,
                                .wants_php = true,
                                .format = BENCH_TEXT };
    self[n > 0 ? n : 0] = '\0';
    replace(&o->program, self);
    replace(&o->path, "/");
    replace(&o->history, "perf/history");
    replace(&o->output, "perf/profile");
    int rc = set_command(argc > 0 ? argv[0] : NULL, o, ret_message);
    for (int i = 1; i < argc && rc == 0; i++)
        rc = take_argument(argc, argv, &i, o, ret_message);
    if (o->max_blocks < o->blocks)
        o->max_blocks = o->blocks;
    return rc < 0 ? rc : check_together(o, ret_message);
}

void perf_options_fini(struct perf_options *o)
{
    char *texts[] = { o->build,    o->program,       o->root,   o->config,
                      o->listen,   o->path,          o->url,    o->history,
                      o->baseline, o->candidates[0], o->output, o->candidates[1] };

    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++)
        mem_free(texts[i]);
    for (size_t i = 0; i < o->n_serve_args; i++)
        mem_free(o->serve_args[i]);
    mem_free(o->serve_args);
}
