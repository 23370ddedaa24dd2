/*
 * `sapid perf`, between its files: what is asked for (perf_options.c), the server under test
 * (perf_server.c), what the machine and the server did meanwhile (perf_sample.c), one measured
 * slice of load and the rounds made of them (perf_run.c), the test that tells a change from noise
 * (perf_stats.c), the record of former runs (perf_history.c), A against B (perf_compare.c), and
 * where the time goes (perf_profile.c, perf_php.c, perf_flame.c).
 *
 * Vocabulary. A load profile is a number of threads and connections. A slice is one load of one
 * server for some time. A round is a slice of each load profile. A block, when two candidates are
 * compared, is: both started afresh, then slices in the order A B B A. A candidate is a program
 * that understands `serve`, and the folder it serves.
 */
#ifndef SAPID_TOOLS_PERF_INT_H
#define SAPID_TOOLS_PERF_INT_H

#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "tools/bench_int.h"

/* --- what is asked for ------------------------------------------------------------------------ */

enum perf_command { PERF_RUN, PERF_TRACK, PERF_COMPARE, PERF_PROFILE };

struct perf_load {
    const char *name;
    uint32_t threads, connections;
};
enum { PERF_LOADS = 4 };
extern const struct perf_load perf_loads[PERF_LOADS];

struct perf_options {
    enum perf_command command;
    char *build;   /* shell command run first; NULL: nothing to build */
    char *program; /* what serves */
    char *root, *config, *listen, *path;
    char **serve_args; /* further arguments of `serve`, NULL-terminated */
    size_t n_serve_args;
    char *url; /* a server that runs already; then nothing is started */
    pid_t pid; /* its first process, to count its CPU time; 0: unknown */
    bool loads[PERF_LOADS];
    const struct perf_load *verdict_load;
    uint32_t rounds, blocks, max_blocks, turns;
    bool no_pinning;
    uint64_t duration_ns, warmup_ns, slice_ns, timeout_ns;
    char *history;  /* folder */
    char *baseline; /* program or commit; NULL: the one kept in `history` */
    bool set_baseline;
    char *candidates[2]; /* compare: programs or commits */
    char *output;        /* folder of profile */
    double frequency;    /* samples a second, of C stacks */
    uint32_t php_rate;   /* samples a second and worker, of PHP stacks */
    bool wants_c, wants_php;
    enum bench_format format;
    bool help;
};
/* argv[0] is the subcommand. 0, or -EINVAL with a message (mem_free). */
MUST_USE int perf_options_parse(int argc, char **argv, struct perf_options *o, char **ret_message);
void perf_options_fini(struct perf_options *o);
extern const char perf_help[];

/* --- the server under test -------------------------------------------------------------------- */

struct perf_server {
    char *program, *url, *log_path;
    pid_t pid;           /* 0: not ours */
    pid_t counted;       /* root of the process tree that is counted; 0: none */
    uint64_t timeout_ns; /* of an answer */
    cpu_set_t cpus;      /* where it is to run; none: anywhere */
    char *digest;      /* SHA-256 of the answer in hex, when two answers were the same; else NULL */
    char *status_text; /* "200, 1,234 bytes" */
};
/* Starts `program`, on the processors of s->cpus, and waits for a right answer. 0, or -errno with a
 * message that has the end of the server's log. */
MUST_USE int perf_server_start(const struct perf_options *o, const char *program,
                               struct perf_server *s, char **ret_message);
void perf_server_stop(struct perf_server *s);
/* Runs a shell command, its output to standard error. 0 or -errno with a message. */
MUST_USE int perf_shell(const char *what, const char *command, const char *folder,
                        char **ret_message);
/* The program of a candidate: a path stays what it is; a commit of the repository is checked out
 * and built beneath `folder`, once. */
MUST_USE int perf_candidate(const struct perf_options *o, const char *name, const char *folder,
                            char **ret_program, char **ret_message);

/* --- samples ---------------------------------------------------------------------------------- */

enum { PERF_CPUS_MAX = 64 };
/* Counters at one moment; differences of two mean something. */
struct perf_sample {
    uint64_t at_ns;
    uint64_t server_cpu_ns, server_switches;
    uint64_t server_pss_bytes; /* not a counter */
    uint64_t client_cpu_ns;
    uint64_t busy_ns[PERF_CPUS_MAX], iowait_ns; /* of the machine; busy with stolen time */
    unsigned cpus;
};
/* Without server_pss_bytes, for which the kernel walks page tables. */
void perf_sample_take(pid_t server, struct perf_sample *ret);
/* That of the tree, into the sample. */
void perf_sample_pss(pid_t server, struct perf_sample *s);
/* `root` and all processes beneath it, "12,14,15" (mem_free). */
char *perf_tree_list(pid_t root);

/* One process, as its stat in /proc says (proc(5)), whatever it calls itself. False: no such text.
 */
struct perf_process {
    pid_t pid, parent;
    uint64_t own_ticks, children_ticks; /* of CPU time; children that ended */
    bool in_tree;
};
bool perf_parse_process(const char *text, pid_t pid, struct perf_process *ret);
/* Sets in_tree of `root` and all beneath it. */
void perf_mark_tree(struct perf_process *all, size_t n, pid_t root);
/* Takes what /proc/stat says of the processors; lines that say something else are passed over. */
void perf_parse_machine(const char *text, struct perf_sample *s);

/* --- one slice -------------------------------------------------------------------------------- */

enum perf_metric_id {
    PERF_RPS,
    PERF_MEAN,
    PERF_P50,
    PERF_P90,
    PERF_P99,
    PERF_P999,
    PERF_MAX,
    PERF_SUCCESS,
    PERF_CPU,      /* of the server, us a request */
    PERF_SWITCHES, /* context switches of the server a request */
    PERF_PSS,
    PERF_CLIENT, /* CPU of the load generator, percent of one */
    PERF_OTHER,  /* CPU of all else on the machine */
    PERF_IOWAIT,
    PERF_METRICS,
};
extern const struct perf_metric {
    const char *name, *unit;
    int better; /* 1: more is better, -1: less is, 0: neither */
    bool decides;
} perf_metrics[PERF_METRICS];

struct perf_row {
    double value[PERF_METRICS];
    double core_percent[PERF_CPUS_MAX];
    unsigned cpus;
    uint64_t requests, errors;
};
/* Loads the server once. 0, -EINTR when a signal ended it, -errno. */
MUST_USE int perf_slice(const struct perf_server *s, const struct perf_load *load,
                        uint64_t duration_ns, uint64_t warmup_ns, struct perf_row *ret);
/* Row of medians. */
void perf_median_row(const struct perf_row *rows, size_t n, struct perf_row *ret);

/* --- many slices ------------------------------------------------------------------------------ */

struct perf_figures {
    struct perf_row *rows[PERF_LOADS]; /* rounds each; NULL: not asked for */
    struct perf_row median[PERF_LOADS];
    uint32_t rounds;
    uint64_t errors;
};
/* All rounds, load profiles in turns. */
MUST_USE int perf_run_rounds(const struct perf_options *o, const struct perf_server *s,
                             struct perf_figures *ret);
void perf_figures_fini(struct perf_figures *f);
void perf_figures_print(const struct perf_options *o, const struct perf_figures *f, FILE *out);

/* --- change or noise -------------------------------------------------------------------------- */

enum perf_verdict { PERF_NOISE, PERF_ACCEPT, PERF_REGRESS };
const char *perf_verdict_name(enum perf_verdict v);

struct perf_ratio {
    double ratio, low, high; /* of B to A: centre of the blocks, and its interval */
    enum perf_verdict verdict;
};
enum {
    PERF_CONFIDENCE_PERCENT = 99,
    PERF_NOTABLE_PERCENT = 3,
    PERF_SHARP_PERCENT = 8, /* an interval of CPU time no wider than that needs no more blocks */
};
double perf_median(double *values, size_t n); /* sorts them */
/* Of positive values: the median of the geometric means of all pairs (Hodges and Lehmann), which a
 * few odd ones do not move and which uses the others nearly as well as a mean. */
double perf_centre(const double *values, size_t n);
/* `ratios`: one of B to A for each block. `better` as in perf_metric. */
void perf_judge(const double *ratios, size_t n, int better, struct perf_ratio *ret);

struct perf_comparison {
    struct perf_ratio of[PERF_METRICS];
    uint32_t blocks;
    struct perf_row a, b; /* medians */
    enum perf_verdict verdict;
};
/* The processors this process may use, in two: the lower for the load generator, the upper for the
 * server. False: there is only one. */
bool perf_split_cpus(const cpu_set_t *all, cpu_set_t *ret_client, cpu_set_t *ret_server);
MUST_USE int perf_compare_programs(const struct perf_options *o, const char *a, const char *b,
                                   struct perf_comparison *ret, char **ret_message);
void perf_comparison_print(const struct perf_options *o, const struct perf_comparison *c,
                           FILE *out);

/* --- history ---------------------------------------------------------------------------------- */

/* One former run: name=value lines. */
struct perf_entry {
    char *path, *text;
};
/* The value of a name, or an empty view. */
struct str perf_entry_value(const struct perf_entry *e, const char *name);
struct perf_history {
    struct perf_entry *entries; /* oldest first */
    size_t n;
};
MUST_USE int perf_history_read(const char *folder, struct perf_history *ret, char **ret_message);
void perf_history_fini(struct perf_history *h);
/* Writes a new entry and the chart of all. `ret_path`: of the entry. */
MUST_USE int perf_history_add(const struct perf_options *o, const struct perf_figures *f,
                              const struct perf_comparison *c, char **ret_path, char **ret_message);
MUST_USE int perf_history_chart(const char *folder, char **ret_message);
/* requests_per_sec=25234.67 (+15.0%) ... against an entry. */
void perf_history_print_change(const struct perf_figures *f, const struct perf_entry *before,
                               const char *label, FILE *out);

/* --- profile ---------------------------------------------------------------------------------- */

/* Collapsed stacks ("a;b;c 12" lines, root first), counted. */
struct perf_stacks {
    struct perf_stack {
        char *frames;
        uint64_t count;
    } * v;
    size_t n, cap;
    uint64_t total;
};
void perf_stacks_add(struct perf_stacks *s, const char *frames, uint64_t count);
/* Joins equal ones; sorted by frames then. */
void perf_stacks_settle(struct perf_stacks *s);
void perf_stacks_fini(struct perf_stacks *s);
MUST_USE int perf_stacks_write(const struct perf_stacks *s, const char *path);
/* Reads what `perf script -F comm,ip,sym` prints. */
MUST_USE int perf_stacks_read_script(FILE *in, struct perf_stacks *s);
/* Settled stacks as an SVG flame graph. 0 or -errno. */
MUST_USE int perf_flame_write(const struct perf_stacks *s, const char *title, const char *path);
/* Functions that are on the stack in over `percent` of the samples. */
void perf_stacks_table(const struct perf_stacks *s, double percent, FILE *out);

/* --- perf_php.c: PHP stacks, from the server's own sampler ------------------------------------ */
/* Adds what the server whose first process is `pid` sampled for `ms` milliseconds; blocks that
 * long. 0, or -errno with a message. */
MUST_USE int perf_php_sample(pid_t pid, uint64_t ms, uint64_t rate, struct perf_stacks *stacks,
                             char **ret_message);
/* Reads lines "frames count". 0, or -EPROTO at a line that is none. */
MUST_USE int perf_stacks_read(struct str text, struct perf_stacks *s);

/* The folder and those above it, where they are not there. 0 or -errno with a message. */
MUST_USE int perf_make_folder(const char *path, char **ret_message);
/* Why a command ended, on standard error: `message`, or what `rc` (-errno) means when it is NULL.
 */
void perf_say_failure(int rc, const char *message);

int perf_run_main(struct perf_options *o);
int perf_track_main(struct perf_options *o);
int perf_compare_main(struct perf_options *o);
int perf_profile_main(struct perf_options *o);

#endif
