/*
 * Code that opcache.preload has compiled before the audit: its instructions have the engine's own
 * handlers, its calls of internal functions go past the hook of audit_calls.c, and all of it stands
 * in memory that opcache shares with the processes that serve. So the audited process makes that
 * piece of memory its own, and then gives the instructions there the handlers and the calls that
 * code compiled now would have. Code of the JIT is left with that: it was entered by a handler.
 */
#include "php/engine/audit_int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include "zend_vm.h"
#pragma GCC diagnostic pop

/* From the first of those instructions to the last. */
struct piece {
    uintptr_t start, end;
};

static uint32_t walked;

static void walk_code(zend_op_array *a, void (*visit)(zend_op_array *, struct piece *),
                      struct piece *piece)
{
    visit(a, piece);
    for (uint32_t i = 0; i < a->num_dynamic_func_defs; i++)
        walk_code(a->dynamic_func_defs[i], visit, piece);
}

static void walk_functions(HashTable *functions, void (*visit)(zend_op_array *, struct piece *),
                           struct piece *piece)
{
    zend_function *f;

    ZEND_HASH_FOREACH_PTR(functions, f)
    {
        if (f->type == ZEND_USER_FUNCTION)
            walk_code(&f->op_array, visit, piece);
    }
    ZEND_HASH_FOREACH_END();
}

#if PHP_VERSION_ID >= 80400
static void walk_hooks(zend_class_entry *ce, void (*visit)(zend_op_array *, struct piece *),
                       struct piece *piece)
{
    zend_property_info *p;

    ZEND_HASH_FOREACH_PTR(&ce->properties_info, p)
    {
        for (uint32_t i = 0; p->hooks && i < ZEND_PROPERTY_HOOK_COUNT; i++)
            if (p->hooks[i] && p->hooks[i]->type == ZEND_USER_FUNCTION)
                walk_code(&p->hooks[i]->op_array, visit, piece);
    }
    ZEND_HASH_FOREACH_END();
}
#else
static void walk_hooks(zend_class_entry *ce, void (*visit)(zend_op_array *, struct piece *),
                       struct piece *piece)
{
    (void)ce;
    (void)visit;
    (void)piece;
}
#endif

static void walk(void (*visit)(zend_op_array *, struct piece *), struct piece *piece)
{
    zend_class_entry *ce;

    walk_functions(CG(function_table), visit, piece);
    ZEND_HASH_FOREACH_PTR(CG(class_table), ce)
    {
        if (ce->type != ZEND_USER_CLASS)
            continue;
        walk_functions(&ce->function_table, visit, piece);
        walk_hooks(ce, visit, piece);
    }
    ZEND_HASH_FOREACH_END();
}

static void measure(zend_op_array *a, struct piece *piece)
{
    uintptr_t start = (uintptr_t)a->opcodes, end = (uintptr_t)(a->opcodes + a->last);

    piece->start = MIN(piece->start, start);
    piece->end = MAX(piece->end, end);
    walked++;
}

/* Opcache's memory has it, all in one mapping. */
static bool is_shared(const struct piece *piece)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512], access[8];
    uintptr_t start, end;
    bool shared = false;

    while (maps && !shared && fgets(line, sizeof(line), maps))
        shared = sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %7s", &start, &end, access) == 3 &&
                 access[3] == 's' && piece->start >= start && piece->end <= end;
    if (maps)
        fclose(maps);
    return shared;
}

/* In place of the memory there: a copy that nobody else sees. Past the snapshot room, which has its
 * own mind about mappings; this process ends soon. */
static int make_private(const struct piece *piece)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = piece->start & ~(page - 1), end = (piece->end + page - 1) & ~(page - 1);
    void *copy = mem_alloc(end - start);

    memcpy(copy, (const void *)start, end - start);
    long at = syscall(SYS_mmap, start, end - start, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0L);
    int rc = at == -1 ? -errno : 0;
    if (rc == 0)
        memcpy((void *)start, copy, end - start);
    mem_free(copy);
    return rc;
}

/* As this process would have compiled it. */
static void bind_anew(zend_op_array *a, struct piece *piece)
{
    (void)piece;
    for (uint32_t i = 0; i < a->last; i++) {
        zend_op *op = &a->opcodes[i];
        if (op->opcode == ZEND_DO_ICALL || op->opcode == ZEND_DO_FCALL_BY_NAME)
            op->opcode = ZEND_DO_FCALL; /* which asks the hook */
        zend_vm_set_opcode_handler(op);
    }
}

uint32_t audit_preload_install(void)
{
    struct piece piece = { UINTPTR_MAX, 0 };

    walked = 0;
    walk(measure, &piece);
    if (walked == 0)
        return 0;
    int rc = is_shared(&piece) ? make_private(&piece) : -ENOTSUP;
    if (rc < 0) {
        log_warn("preloaded code cannot be audited: %s", strerror(-rc));
        return walked;
    }
    walk(bind_anew, NULL);
    return 0;
}
