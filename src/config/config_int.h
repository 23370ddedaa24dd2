/*
 * Between the files of this room: keys.c (the table), value.c (one TOML value into one field),
 * config.c (a whole file and the command line into one struct).
 */
#ifndef SAPID_CONFIG_CONFIG_INT_H
#define SAPID_CONFIG_CONFIG_INT_H

#include "config/config.h"

/* What a key's value may be, and the type of its field. */
enum config_kind {
    KIND_BOOLEAN,          /* bool */
    KIND_COUNT32,          /* uint32_t in [min, max] */
    KIND_COUNT64,          /* uint64_t */
    KIND_AUTO,             /* int32_t, "auto" is CONFIG_AUTO */
    KIND_SIZE,             /* uint64_t bytes */
    KIND_TIME,             /* uint64_t milliseconds */
    KIND_STRING,           /* struct str */
    KIND_PATH,             /* struct str, made absolute */
    KIND_FRONT_CONTROLLER, /* struct str; false is "" */
    KIND_LOG_TARGET,       /* struct str: path made absolute, or one of `choices` */
    KIND_LEVEL,            /* struct str: one of `choices` */
    KIND_FORMAT,           /* enum as int: index in `choices` */
    KIND_STRINGS,          /* struct config_strings */
    KIND_PEERS,            /* struct config_strings: addresses, CIDR, "unix" */
    KIND_LISTEN,           /* struct config_listen array and its length, see config_server */
    KIND_PAIRS,            /* struct config_pairs */
    KIND_ADDRESS,          /* struct config_listen: where to connect to */
    KIND_POOL_SIZE,        /* worker_pool_size of the pool, and worker_min and worker_spare */
    KIND_SERVERS, /* struct config_fastcgi_server array and its length, see config_fastcgi */
};

enum config_part { PART_SERVER, PART_POOL, PART_FASTCGI, PART_LOG, PART_ADMIN, PART_RECORD };

enum { NO_GIVEN_FIELD = -1 };

struct config_key {
    const char *section, *name;
    enum config_kind kind;
    enum config_part part; /* the struct that `offset` and `given_offset` are in */
    uint32_t offset;
    int32_t given_offset;       /* of the bool that says "somebody set it", or NO_GIVEN_FIELD */
    uint64_t min, max;          /* of numbers; `max` 0: no limit */
    const char *const *choices; /* NULL-terminated */
    const char *fallback;       /* in TOML; "" where the default is not one value */
    const char *fallback_text;  /* what the reference says instead, or NULL */
    const char *text;           /* for the reference: Markdown, one paragraph */
    const char *example;        /* value in TOML */
};

struct config_section {
    const char *name;
    const char *text;
};

extern const struct config_key config_keys[];
extern const size_t config_n_keys;
extern const struct config_section config_sections[];
extern const size_t config_n_sections;

/* NULL when there is none. */
const struct config_key *config_key_find(struct str section, struct str name);
/* The known name nearest to a mistyped one; NULL when nothing is near. */
const struct config_key *config_key_nearest(struct str section, struct str name);
const struct config_section *config_section_nearest(struct str name);

/* Edits between two names, `limit` + 1 when more; how many make a slip of `typed`. */
unsigned config_distance(struct str a, struct str b, unsigned limit);
unsigned config_distance_limit(struct str typed);

/* Whether a .htaccess forbids its whole folder to everybody. */
bool config_htaccess_denies(struct str text);

struct loader {
    struct config *c;
    struct str base_dir;
    struct config_errors errors;
    uint32_t errors_room;
    bool out_of_memory;
    const struct toml_value *route_tables; /* what [[route]] was read from */
    void *record; /* where keys of PART_RECORD are stored: one element of a list of tables */
    struct config_pool *pool; /* whose keys are being set */
};

/* Adds an error "section.name: ..." (or without key, key NULL). Line 0: the command line. */
PRINTF_LIKE(5, 6)
void loader_complain(struct loader *l, const struct config_key *key, uint32_t line, uint32_t column,
                     const char *fmt, ...);
/* Memory of the configuration's arena; NULL sets out_of_memory. */
void *loader_alloc(struct loader *l, size_t bytes);
struct str loader_copy(struct loader *l, struct str s);
struct str loader_absolute(struct loader *l, struct str path);

/* As TOML that reads back as the same value. */
void config_print_value(config_put *put, void *ctx, const struct config *c,
                        const struct config_key *key, const void *field);
/* The field of `key` in that pool, the server or the log part. */
void *config_field(struct config *c, struct config_pool *pool, const struct config_key *key);
/* pools.c: all of [pool.NAME]. */
void config_set_pools(struct loader *l, const struct toml_value *table);
/* Stores a value and where it came from; in `l->pool`, if the key is one of a pool. */
void config_set_from(struct loader *l, const struct config_key *key, const struct toml_value *v,
                     enum config_origin_kind origin);
/* loops.c: the pools of worker scripts, behind all others. */
void config_add_loops(struct loader *l);
/* images.c: checks the keys of snapshots by script, and adds the seats of images behind all others.
 */
void config_add_images(struct loader *l);
/* The defaults of all keys; behind the first pool, of those of `l->pool`. */
void config_set_defaults(struct loader *l);
/* `table` is what the file calls it, `section` the table whose keys it has. */
void config_complain_unknown_key(struct loader *l, struct str table, struct str section,
                                 const struct toml_value *v);
/* "64M", "30s": the shortest form that reads back as the same value. */
void config_format_size(uint64_t bytes, char *out, size_t size);
void config_format_time(uint64_t ms, char *out, size_t size);
/* [[route]]: the keys of one, and all of a file. */
extern const struct config_key config_route_keys[];
extern const size_t config_n_route_keys;
void config_set_routes(struct loader *l, const struct toml_value *list);
void config_check_routes(struct loader *l);
/* Adds or replaces one pair. */
void config_pairs_put(struct loader *l, struct config_pairs *pairs, struct str key,
                      struct str value);
/* Checks one value and stores it. Complains and stores nothing when it is not what the key expects.
 */
void config_set(struct loader *l, const struct config_key *key, const struct toml_value *v);

#endif
