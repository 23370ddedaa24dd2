/*
 * What must not be the same in every request that begins from the same image: random numbers. And
 * what counts from the image on: the memory limit.
 *
 * PHP's own sources: the combined LCG (lcg_value, uniqid) and the Mersenne Twister (mt_rand,
 * shuffle, array_rand) keep state and are seeded here; random_bytes, random_int and session ids ask
 * the kernel each time. OpenSSL's generator notices the new process number that src/snapshot shows
 * it; libsodium asks the kernel.
 */
#include "php/engine/engine_int.h"

#include <dlfcn.h>
#include <sys/random.h>

static size_t image_bytes; /* of PHP's memory, real size */
static ZEND_INI_MH((*set_memory_limit));

/* The image belongs to all requests; the limit is for what each takes beyond it. */
static void limit_memory(void)
{
    size_t limit = (size_t)PG(memory_limit);

    if (PG(memory_limit) > 0 && limit < SIZE_MAX - image_bytes)
        zend_set_memory_limit(limit + image_bytes);
}

static ZEND_INI_MH(on_memory_limit)
{
    int rc = set_memory_limit(entry, new_value, mh_arg1, mh_arg2, mh_arg3, stage);

    if (rc == SUCCESS)
        limit_memory();
    return rc;
}

/* SQLite's generator is seeded once, by the first use; without a seed again. */
static void unseed_sqlite(void)
{
    void (*randomness)(int, void *);

    *(void **)&randomness = dlsym(RTLD_DEFAULT, "sqlite3_randomness");
    if (randomness)
        randomness(0, NULL);
}

void fresh_record(void)
{
    zend_ini_entry *e = zend_hash_str_find_ptr(EG(ini_directives), "memory_limit", 12);

    if (e && !set_memory_limit) {
        set_memory_limit = e->on_modify;
        e->on_modify = on_memory_limit;
    }
    image_bytes = zend_memory_usage(true);
    unseed_sqlite();
    php_clear_stat_cache(false, NULL, 0);
    EG(objects_store).free_list_head = -1; /* a request's objects have handles of their own */
}

void fresh_make(void)
{
    enum { LCG_1 = 2147483563, LCG_2 = 2147483399 }; /* the moduli; states are 1 to them - 1 */
    uint32_t seed[2];
    ssize_t n = getrandom(seed, sizeof(seed), 0);

    CHECKF(n == (ssize_t)sizeof(seed), "the kernel gives no random numbers");
    compat_random_seed((int32_t)(seed[0] % (LCG_1 - 1) + 1), (int32_t)(seed[1] % (LCG_2 - 1) + 1));
    limit_memory();
}
