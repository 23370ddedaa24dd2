/*
 * The PHP stack of a worker, read while it runs or after it crashed: function, class, file and line
 * of every call. The reader knows the engine's structs by a table of offsets (php_layout) that the
 * engine module fills in when it is built, so that the program needs no php.h; the same reader runs
 * in the pool process, on the memory of a worker, and in a crashed worker, on its own.
 *
 * What is read changes at the same moment and may be nonsense: every pointer is checked for
 * alignment and range, every length against a limit, every loop against a count, and a frame that
 * cannot be read ends the stack with what was found so far.
 */
#ifndef SAPID_PHP_STACK_H
#define SAPID_PHP_STACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/check.h"

/* Where the engine of one PHP API keeps what the reader needs. */
struct php_layout {
    uint64_t current; /* address of EG(current_execute_data); the same in every fork */
    uint16_t execute_bytes, execute_opline, execute_func, execute_call_info, execute_prev;
    uint16_t function_common_bytes, function_bytes; /* of any function; of PHP code */
    uint16_t function_type, function_name, function_scope;
    uint16_t op_array_filename, op_array_opcodes, op_array_last, op_array_line;
    uint16_t op_bytes, op_line;
    uint16_t string_bytes, string_length, string_text;
    uint16_t class_name;
    uint8_t internal_function;    /* value of the type */
    uint32_t call_code, call_top; /* bits of call_info: code of a file; entered from C */
};

enum { PHP_STACK_FRAMES = 64, PHP_STACK_TEXT = 12 << 10, PHP_STACK_NAME = 256 };

struct php_frame {
    uint64_t address;                     /* of the execute_data, as FPM's slow log prints it */
    uint16_t function, class_name, file;  /* offsets in texts; 0: none */
    uint8_t is_internal, is_code, is_top; /* code: an included file, or the script itself if top */
    uint32_t line;                        /* where this frame stands now; 0: unknown */
};

/* Fixed in size and without pointers: it is kept in shared memory too. */
struct php_stack {
    uint32_t n_frames, text_bytes;
    uint8_t is_cut;                            /* deeper than asked for, or than fits */
    uint8_t is_broken;                         /* ended at something that is no frame */
    struct php_frame frames[PHP_STACK_FRAMES]; /* innermost first */
    char texts[PHP_STACK_TEXT];                /* NUL-terminated; begins with "" */
};

/* Copies `n` bytes at `address` of the memory that is looked at; false where there are none. */
struct stack_memory {
    bool (*read)(void *ctx, uint64_t address, void *into, size_t n);
    void *ctx;
};

/* At most `depth` frames. Async-signal-safe as far as memory->read is. */
void php_stack_read(const struct php_layout *l, const struct stack_memory *memory, unsigned depth,
                    struct php_stack *ret);
/* Makes what another process wrote safe to print: counts and offsets in range, texts ended. */
void php_stack_check(struct php_stack *s);

static inline const char *php_stack_text(const struct php_stack *s, uint16_t offset)
{
    return s->texts + offset;
}

/* Where the first frame of PHP code at or above `at` stands: its index, or n_frames. */
unsigned php_stack_user_frame(const struct php_stack *s, unsigned at);
/* "Foo::bar", "strlen", "[INCLUDE_OR_EVAL]", "{main}". */
void php_frame_name(const struct php_stack *s, const struct php_frame *f, char *ret, size_t size);

/* --- worker_memory.c: the memory of a worker, from its pool process --------------------------- */
/*
 * A worker opens its own /proc/self/mem before it stops being dumpable and gives the descriptor to
 * its parent: the kernel checks access when the file is opened only, so this needs no privilege, no
 * ptrace and no system call that containers forbid, and nobody else can do the same (ADR 7).
 */
struct worker_memory {
    int socket; /* the descriptors come here once; -1: they have, or never will */
    int fd;     /* /proc/self/mem of the worker, -1: none (yet) */
    int rollup; /* its smaps_rollup, -1 likewise */
};
#define WORKER_MEMORY_NONE ((struct worker_memory){ -1, -1, -1 })

/* In the pool process before fork: the worker's end is for worker_memory_offer. 0 or -errno. */
MUST_USE int worker_memory_init(struct worker_memory *m, int *ret_worker_end);
/* In the worker, before it runs anything of the application. Closes the socket. From here on the
 * process is not dumpable. */
void worker_memory_offer(int worker_end);
void worker_memory_fini(struct worker_memory *m);
/* False: the worker has not given its memory, or is dead. */
bool worker_memory_stack(struct worker_memory *m, const struct php_layout *l, unsigned depth,
                         struct php_stack *ret);
/* Proportional set size in bytes, 0: unknown. Walks the page tables: for people, not for loops. */
uint64_t worker_memory_pss(struct worker_memory *m);
/* Once, after the engine has started: memory that the pool process shares with all its workers
 * (opcache's) is read without a system call. */
void worker_memory_find_shared(void);

#endif
