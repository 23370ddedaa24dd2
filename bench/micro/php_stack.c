/*
 * One sample of a worker's PHP stack by its pool process: how long it takes at several depths. The
 * sampled process is a real worker as far as the reader can tell: frames that lie together, as on
 * the engine's stack, and functions, names and files each in a page of its own, which is worse than
 * in any application with opcache (there they are read without a system call).
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "php/stack.h"

enum { FRAMES = 64, PAGE = 4096, SAMPLES = 20000, FUNCTIONS_APART = 20 };

struct text {
    uint64_t head[2], length;
    char bytes[40];
};
struct function {
    uint64_t type, name, scope, filename, opcodes;
    uint32_t last, line;
    uint64_t rest[24]; /* a zend_op_array is as large */
};
struct execute {
    uint64_t opline, func, info, prev, rest[6];
};
struct function_page {
    struct function function;
    struct text name, file;
    struct {
        uint32_t words[7], line;
    } op;
};

static uint64_t current;
static struct execute *executes;

static void make_frames(void)
{
    char *pages = mmap(NULL, (FUNCTIONS_APART + 2) * PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(pages != MAP_FAILED);
    executes = (struct execute *)(pages + FUNCTIONS_APART * PAGE);
    for (unsigned i = 0; i < FRAMES; i++) {
        struct function_page *p = (struct function_page *)(pages + i % FUNCTIONS_APART * PAGE);
        p->name.length = p->file.length = sizeof(p->name.bytes);
        p->op.line = i % FUNCTIONS_APART + 1;
        p->function = (struct function){ .type = 2,
                                         .name = (uintptr_t)&p->name,
                                         .filename = (uintptr_t)&p->file,
                                         .opcodes = (uintptr_t)&p->op,
                                         .last = 1 };
        executes[i] = (struct execute){ .opline = (uintptr_t)&p->op,
                                        .func = (uintptr_t)&p->function,
                                        .prev = i + 1 < FRAMES ? (uintptr_t)&executes[i + 1] : 0 };
    }
    current = (uintptr_t)executes;
}

int main(void)
{
    static const unsigned depths[] = { 1, 5, 20, 64 };
    const struct php_layout layout = {
        .current = (uintptr_t)&current,
        .execute_bytes = sizeof(struct execute),
        .execute_opline = offsetof(struct execute, opline),
        .execute_func = offsetof(struct execute, func),
        .execute_call_info = offsetof(struct execute, info),
        .execute_prev = offsetof(struct execute, prev),
        .function_common_bytes = 144,
        .function_bytes = sizeof(struct function),
        .function_type = offsetof(struct function, type),
        .function_name = offsetof(struct function, name),
        .function_scope = offsetof(struct function, scope),
        .op_array_filename = offsetof(struct function, filename),
        .op_array_opcodes = offsetof(struct function, opcodes),
        .op_array_last = offsetof(struct function, last),
        .op_array_line = offsetof(struct function, line),
        .op_bytes = 32,
        .op_line = 28,
        .string_bytes = 24,
        .string_length = offsetof(struct text, length),
        .string_text = offsetof(struct text, bytes),
        .internal_function = 1,
    };
    static struct php_stack stack;
    struct worker_memory m;
    int end;

    make_frames();
    CHECK(worker_memory_init(&m, &end) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        worker_memory_offer(end);
        prctl(PR_SET_DUMPABLE, 0);
        pause();
        _exit(0);
    }
    close(end);
    while (!worker_memory_stack(&m, &layout, 1, &stack) && kill(pid, 0) == 0)
        continue;
    for (size_t i = 0; i < ARRAY_LENGTH(depths); i++) {
        uint64_t begin = clock_monotonic_ns();
        for (unsigned n = 0; n < SAMPLES; n++)
            CHECK(worker_memory_stack(&m, &layout, depths[i], &stack));
        CHECK(stack.n_frames == depths[i] &&
              stack.frames[depths[i] - 1].line == (depths[i] - 1) % FUNCTIONS_APART + 1);
        printf("%2u frames: %6.2f us a sample\n", depths[i],
               (double)(clock_monotonic_ns() - begin) / 1e3 / SAMPLES);
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    worker_memory_fini(&m);
    return 0;
}
