/* Reading PHP stacks out of memory that is not trusted, and looking at real workers through it. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "driver.h"
#include "php/stack.h"

/* --- an engine of our own, in a small memory -------------------------------------------------- */

struct fake_string {
    uint64_t head[2], length;
    char text[64];
};
struct fake_class {
    uint64_t name;
};
struct fake_op {
    uint32_t words[7], line;
};
struct fake_function {
    uint64_t type, name, scope, filename, opcodes;
    uint32_t last, line;
};
struct fake_execute {
    uint64_t opline, func, info, prev;
};

enum { FRAMES = 100 };

/* Everything the reader may see: it is given offsets into this as addresses. */
struct engine {
    uint64_t current;
    struct fake_execute executes[FRAMES];
    struct fake_function functions[4];
    struct fake_string strings[8];
    struct fake_class classes[2];
    struct fake_op ops[8];
};

static const uint64_t base = 0x10000;
static struct engine engine;
static unsigned reads;

#define AT(member) (base + offsetof(struct engine, member))

static const struct php_layout layout = {
    .current = 0x10000,
    .execute_bytes = sizeof(struct fake_execute),
    .execute_opline = offsetof(struct fake_execute, opline),
    .execute_func = offsetof(struct fake_execute, func),
    .execute_call_info = offsetof(struct fake_execute, info),
    .execute_prev = offsetof(struct fake_execute, prev),
    .function_common_bytes = 24,
    .function_bytes = sizeof(struct fake_function),
    .function_type = offsetof(struct fake_function, type),
    .function_name = offsetof(struct fake_function, name),
    .function_scope = offsetof(struct fake_function, scope),
    .op_array_filename = offsetof(struct fake_function, filename),
    .op_array_opcodes = offsetof(struct fake_function, opcodes),
    .op_array_last = offsetof(struct fake_function, last),
    .op_array_line = offsetof(struct fake_function, line),
    .op_bytes = sizeof(struct fake_op),
    .op_line = offsetof(struct fake_op, line),
    .string_bytes = 24,
    .string_length = offsetof(struct fake_string, length),
    .string_text = offsetof(struct fake_string, text),
    .class_name = offsetof(struct fake_class, name),
    .internal_function = 1,
    .call_code = 1 << 16,
    .call_top = 1 << 17,
};

static bool read_engine(void *ctx, uint64_t address, void *into, size_t n)
{
    (void)ctx;
    reads++;
    if (address < base || address - base > sizeof(engine) || n > sizeof(engine) - (address - base))
        return false;
    memcpy(into, (char *)&engine + (address - base), n);
    return true;
}

static const struct stack_memory memory = { read_engine, NULL };

static void set_string(unsigned i, const char *text)
{
    engine.strings[i].length = strlen(text);
    snprintf(engine.strings[i].text, sizeof(engine.strings[i].text), "%s", text);
}

/* strlen() called by Foo::bar() at line 12, called by the script at line 3. */
static void make_engine(void)
{
    memset(&engine, 0, sizeof(engine));
    set_string(0, "strlen");
    set_string(1, "bar");
    set_string(2, "/srv/x.php");
    set_string(3, "Foo");
    engine.classes[0].name = AT(strings[3]);
    for (unsigned i = 0; i < ARRAY_LENGTH(engine.ops); i++)
        engine.ops[i].line = 10 + i;
    engine.functions[0] = (struct fake_function){ .type = 1, .name = AT(strings[0]) };
    engine.functions[1] = (struct fake_function){ .type = 2,
                                                  .name = AT(strings[1]),
                                                  .scope = AT(classes[0]),
                                                  .filename = AT(strings[2]),
                                                  .opcodes = AT(ops),
                                                  .last = 8,
                                                  .line = 9 };
    engine.functions[2] = engine.functions[1];
    engine.functions[2].name = engine.functions[2].scope = 0;
    engine.executes[0] = (struct fake_execute){ .func = AT(functions[0]), .prev = AT(executes[1]) };
    engine.executes[1] = (struct fake_execute){ .func = AT(functions[1]),
                                                .opline = AT(ops[2]),
                                                .prev = AT(executes[2]) };
    engine.executes[2] = (struct fake_execute){ .func = AT(functions[2]),
                                                .opline = AT(ops[0]),
                                                .info = 1 << 16 | 1 << 17 };
    engine.current = AT(executes[0]);
    reads = 0;
}

static struct php_stack stack;

static void read_stack(unsigned depth)
{
    memset(&stack, 0xee, sizeof(stack));
    php_stack_read(&layout, &memory, depth, &stack);
    EXPECT(stack.n_frames <= depth && stack.text_bytes <= PHP_STACK_TEXT);
}

static void expect_frame(unsigned i, const char *name, const char *file, uint32_t line)
{
    char text[600];

    EXPECT(i < stack.n_frames);
    php_frame_name(&stack, &stack.frames[i], text, sizeof(text));
    EXPECT_STR(str_from(text), str_from(name));
    EXPECT_STR(str_from(php_stack_text(&stack, stack.frames[i].file)), str_from(file));
    EXPECT_INT(stack.frames[i].line, line);
}

TEST(a_stack_is_read)
{
    make_engine();
    read_stack(64);
    EXPECT_INT(stack.n_frames, 3);
    EXPECT(!stack.is_cut && !stack.is_broken);
    expect_frame(0, "strlen", "", 0);
    expect_frame(1, "Foo::bar", "/srv/x.php", 12);
    expect_frame(2, "{main}", "/srv/x.php", 10);
    EXPECT_INT(php_stack_user_frame(&stack, 0), 1);
    EXPECT_INT(php_stack_user_frame(&stack, 3), 3);
    read_stack(2);
    EXPECT_INT(stack.n_frames, 2);
    EXPECT(stack.is_cut);
}

TEST(an_idle_engine_has_no_stack)
{
    make_engine();
    engine.current = 0;
    read_stack(64);
    EXPECT_INT(stack.n_frames, 0);
    EXPECT(!stack.is_broken);
}

TEST(a_chain_in_circles_ends)
{
    make_engine();
    engine.executes[2].prev = AT(executes[1]);
    read_stack(64);
    EXPECT_INT(stack.n_frames, 64);
    EXPECT(stack.is_cut);
    /* frames without a function are not shown, but counted */
    engine.executes[1].func = engine.executes[2].func = 0;
    read_stack(64);
    EXPECT_INT(stack.n_frames, 1);
    EXPECT(stack.is_cut);
    EXPECT(reads < 20000);
}

TEST(pointers_to_nowhere_end_the_stack)
{
    static const uint64_t bad[] = { 1,          4095,       0x10001, 0x7fffffffffff,
                                    UINT64_MAX, 1ull << 63, 0x20000 };

    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        make_engine();
        engine.executes[0].prev = bad[i];
        read_stack(64);
        EXPECT_INT(stack.n_frames, 1);
        EXPECT(stack.is_broken);
        make_engine();
        engine.executes[1].func = bad[i];
        read_stack(64);
        EXPECT_INT(stack.n_frames, 1);
        EXPECT(stack.is_broken);
        make_engine();
        engine.functions[1].name = engine.functions[1].scope = engine.functions[1].filename =
            bad[i];
        engine.functions[1].opcodes = bad[i];
        read_stack(64);
        EXPECT_INT(stack.n_frames, 3);
        expect_frame(1, "???", "", 9); /* the line where it begins */
        make_engine();
        engine.current = bad[i];
        read_stack(64);
        EXPECT_INT(stack.n_frames, 0);
        EXPECT(stack.is_broken);
    }
}

TEST(strings_are_bounded)
{
    make_engine();
    engine.strings[1].length = UINT64_MAX;
    engine.strings[2].length = 1 << 30;
    read_stack(64);
    EXPECT_INT(stack.n_frames, 3);
    EXPECT_INT(stack.frames[1].function, 0);
    EXPECT_INT(stack.frames[1].file, 0);
    /* more text than there is room for: the frames stay, without it */
    make_engine();
    for (unsigned i = 0; i < FRAMES; i++)
        engine.executes[i] = (struct fake_execute){ .func = AT(functions[1]),
                                                    .prev = AT(executes[0]) +
                                                            (i + 1) * sizeof(struct fake_execute) };
    engine.strings[1].length = 250; /* reaches into what follows, as any bytes */
    read_stack(64);
    EXPECT_INT(stack.n_frames, 64);
    EXPECT(stack.is_cut);
    EXPECT(stack.frames[0].function && !stack.frames[63].function);
}

TEST(an_opline_elsewhere_gives_the_line_of_the_function)
{
    static const uint64_t bad[] = { 0, 8, UINT64_MAX };

    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        make_engine();
        engine.executes[1].opline = bad[i];
        read_stack(64);
        EXPECT_INT(stack.frames[1].line, 9);
    }
    make_engine();
    engine.executes[1].opline = AT(ops[2]) + 4; /* between two */
    read_stack(64);
    EXPECT_INT(stack.frames[1].line, 9);
    engine.executes[1].opline = AT(ops[7]) + sizeof(struct fake_op); /* behind the last */
    read_stack(64);
    EXPECT_INT(stack.frames[1].line, 9);
}

TEST(random_memory_is_read_without_harm)
{
    uint64_t seed = 88172645463325252u;

    for (unsigned round = 0; round < 20000; round++) {
        make_engine();
        for (unsigned i = 0; i < 6; i++) {
            seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
            size_t at = seed % (sizeof(engine) - 8) / 8 * 8;
            uint64_t value = seed >> 32;
            value = value % 3 == 0 ? base + value % sizeof(engine) / 8 * 8 : value;
            memcpy((char *)&engine + at, &value, 8);
        }
        read_stack(1 + round % 64);
        php_stack_check(&stack);
    }
}

TEST(a_stack_of_a_stranger_is_made_safe)
{
    char name[600];

    memset(&stack, 0xff, sizeof(stack));
    php_stack_check(&stack);
    EXPECT_INT(stack.n_frames, PHP_STACK_FRAMES);
    for (unsigned i = 0; i < stack.n_frames; i++)
        php_frame_name(&stack, &stack.frames[i], name, sizeof(name));
    char little[4];
    make_engine();
    read_stack(64);
    php_frame_name(&stack, &stack.frames[1], little, sizeof(little));
    EXPECT_STR(str_from(little), STR("Foo"));
}

/* --- a real worker ---------------------------------------------------------------------------- */

/* Asks the pool process, as `sapid status` does. */
static char *look(struct driver *d, bool stacks)
{
    struct control_message m;
    struct buf text;
    size_t n_fds;

    buf_init(&text, 0);
    control_message_init(&m, CONTROL_LOOK);
    m.status = stacks ? CONTROL_LOOK_STACKS : 0;
    EXPECT_INT(control_send(d->supervisor, &m, NULL, 0), 0);
    do {
        EXPECT_INT(control_receive(d->supervisor, &m, NULL, 0, &n_fds), 1);
        if (m.type != CONTROL_RECORD || m.status != CONTROL_RECORD_LOOK)
            continue;
        EXPECT_INT(buf_append(&text, m.text, m.text_bytes), 0);
    } while (m.type != CONTROL_RECORD || m.status != CONTROL_RECORD_LOOK || m.requests);
    char *copy = mem_strndup(buf_view(&text));
    buf_fini(&text);
    return copy;
}

static bool has(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

TEST(what_each_worker_does_now)
{
    struct driver d;
    struct channel_request r;
    struct answer a;

    driver_start(&d, "ini = { \"opcache.enable\" = \"1\" }", 2);
    driver_script(&d, "wait.php",
                  "<?php\nclass W {\n function on($f) {\n  while (!file_exists($f)) {\n   "
                  "clearstatcache(); usleep(1000);\n  }\n }\n}\n(new W)->on(__DIR__ . "
                  "'/go'); echo 'done';");
    driver_request(&d, &r, "wait.php", "a=\"\n");
    r.route = STR("prefix /w");
    struct channel_ticket t = driver_push(&d, &r, NULL);
    char *text = NULL;
    for (int tries = 0; tries < 60000 && !(text && has(text, "W::on")); tries++) {
        mem_free(text);
        driver_poll(&d, 1);
        text = look(&d, true);
    }
    EXPECT(has(text, "{\"pool\":\"www\",\"generation\":1,"));
    EXPECT(has(text, "\"state\":\"busy\"") && has(text, "\"state\":\"idle\""));
    EXPECT(has(text, "\"route\":\"prefix /w\""));
    EXPECT(has(text, "{\"function\":\"W::on\",\"file\":\""));
    EXPECT(has(text, "{\"function\":\"{main}\",\"file\":\""));
    EXPECT(has(text, "wait.php\",\"line\":9}"));
    mem_free(text);
    text = look(&d, false);
    EXPECT(has(text, "\"method\":\"GET\"") && !has(text, "\"stack\""));
    mem_free(text);
    driver_script(&d, "go", "");
    driver_collect(&d, t, &a);
    EXPECT_BODY(&a, "done");
    answer_free(&a);
    driver_stop(&d);
}

/* The pool process may read its worker, which nobody else may, without any privilege. */
TEST(memory_is_read_without_privilege)
{
    static volatile uint64_t place;
    struct worker_memory m;
    struct php_layout l = layout;
    int end = -1;

    if (geteuid() == 0 &&
        (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0))
        EXPECT(false);
    prctl(PR_SET_DUMPABLE, 1);
    EXPECT_INT(worker_memory_init(&m, &end), 0);
    pid_t pid = fork();
    if (pid == 0) {
        place = 1; /* no frame can be there: the stack is broken, but it was read */
        worker_memory_offer(end);
        prctl(PR_SET_DUMPABLE, 0);
        pause();
        _exit(0);
    }
    close(end);
    l.current = (uint64_t)(uintptr_t)&place;
    EXPECT_INT(poll(&(struct pollfd){ m.socket, POLLIN, 0 }, 1, 60000), 1);
    EXPECT(!worker_memory_stack(&m, &l, 8, &stack));
    EXPECT(stack.is_broken);
    EXPECT(worker_memory_pss(&m) > 0);
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
    EXPECT(access(path, R_OK) < 0);
    kill(pid, SIGKILL);
    EXPECT_INT(waitpid(pid, NULL, 0), pid);
    EXPECT(!worker_memory_stack(&m, &l, 8, &stack)); /* and no other process that has its pid */
    worker_memory_fini(&m);
}
