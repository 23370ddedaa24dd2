/* Reading a PHP stack through a table of offsets: see stack.h. No allocation, no library calls but
 * memcpy, so that a signal handler can use it. */
#include "php/stack.h"

#include <assert.h>
#include <string.h>

enum {
    SCAN_MAX = 4096,  /* frames walked, printed or not: a chain that goes in circles */
    STRUCT_MAX = 512, /* of any struct that is copied */
    OPCODES_MAX = 1 << 24,
    LINE_MAX_SANE = 1 << 28,
};
static_assert(PHP_STACK_TEXT <= UINT16_MAX, "offsets in texts have 16 bits");

struct reader {
    const struct php_layout *l;
    const struct stack_memory *memory;
    struct php_stack *out;
};

/* User space, not the first page, aligned as the allocator of the engine aligns. */
static bool plausible(uint64_t address)
{
    return address >= 4096 && address < UINT64_C(1) << 47 && address % 8 == 0;
}

static bool fetch(const struct reader *r, uint64_t address, void *into, size_t n)
{
    return plausible(address) && r->memory->read(r->memory->ctx, address, into, n);
}

static uint64_t word_at(const unsigned char *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static uint32_t half_at(const unsigned char *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

/* A zend_string into texts; 0 when there is none or no room. Long ones keep their end: of a path
 * that is the telling part. */
static uint16_t take_string(struct reader *r, uint64_t address)
{
    unsigned char head[64];
    struct php_stack *s = r->out;

    if (r->l->string_bytes > sizeof(head) || !fetch(r, address, head, r->l->string_bytes))
        return 0;
    uint64_t length = word_at(head + r->l->string_length), from = 0;
    if (length == 0 || length > UINT32_MAX)
        return 0;
    if (length >= PHP_STACK_NAME) {
        from = length - (PHP_STACK_NAME - 1);
        length = PHP_STACK_NAME - 1;
    }
    if (length + 1 > PHP_STACK_TEXT - s->text_bytes) {
        s->is_cut = 1;
        return 0;
    }
    char *to = s->texts + s->text_bytes;
    if (!r->memory->read(r->memory->ctx, address + r->l->string_text + from, to, length))
        return 0;
    to[length] = '\0';
    uint16_t at = (uint16_t)s->text_bytes;
    s->text_bytes += (uint32_t)length + 1;
    return at;
}

/* Files repeat from frame to frame. */
static uint16_t take_file(struct reader *r, uint64_t address, uint64_t *last, uint16_t *last_at)
{
    if (address != *last) {
        *last = address;
        *last_at = take_string(r, address);
    }
    return *last_at;
}

/* The line of an opline that lies within the function's opcodes. Code of the JIT writes its opline
 * now and then only, and calls leave other values there: then the line is that of the function. */
static uint32_t find_line(const struct reader *r, const unsigned char *function, uint64_t opline)
{
    uint64_t opcodes = word_at(function + r->l->op_array_opcodes);
    uint32_t last = half_at(function + r->l->op_array_last);
    uint32_t start = half_at(function + r->l->op_array_line), line = 0;
    unsigned char word[4];

    if (last <= OPCODES_MAX && opline >= opcodes &&
        opline < opcodes + (uint64_t)last * r->l->op_bytes &&
        (opline - opcodes) % r->l->op_bytes == 0 && plausible(opcodes) &&
        r->memory->read(r->memory->ctx, opline + r->l->op_line, word, sizeof(word)))
        line = half_at(word);
    if (line == 0 || line > LINE_MAX_SANE)
        line = start <= LINE_MAX_SANE ? start : 0;
    return line;
}

static void take_class(struct reader *r, struct php_frame *f, uint64_t scope)
{
    unsigned char name[8];

    if (scope && fetch(r, scope, name, 1) && r->l->class_name < 4096 &&
        r->memory->read(r->memory->ctx, scope + r->l->class_name, name, sizeof(name)))
        f->class_name = take_string(r, word_at(name));
}

/* The struct of an internal function is shorter. */
static bool take_function(const struct reader *r, uint64_t address, unsigned char *function,
                          struct php_frame *f)
{
    const struct php_layout *l = r->l;

    if (!fetch(r, address, function, l->function_common_bytes))
        return false;
    f->is_internal = function[l->function_type] == l->internal_function;
    return f->is_internal || fetch(r, address, function, l->function_bytes);
}

void php_stack_read(const struct php_layout *l, const struct stack_memory *memory, unsigned depth,
                    struct php_stack *ret)
{
    struct reader r = { l, memory, ret };
    unsigned char execute[STRUCT_MAX], function[STRUCT_MAX], word[8];
    uint64_t file_known = 0;
    uint16_t file_at = 0;

    CHECK(l->execute_bytes <= STRUCT_MAX && l->function_bytes <= STRUCT_MAX &&
          l->function_common_bytes <= l->function_bytes);
    ret->n_frames = 0;
    ret->is_cut = ret->is_broken = 0;
    ret->texts[0] = '\0';
    ret->text_bytes = 1;
    if (!fetch(&r, l->current, word, sizeof(word))) {
        ret->is_broken = 1;
        return;
    }
    uint64_t at = word_at(word);
    for (unsigned scanned = 0; at; scanned++) {
        if (scanned == SCAN_MAX || ret->n_frames == depth || ret->n_frames == PHP_STACK_FRAMES) {
            ret->is_cut = 1;
            return;
        }
        if (!fetch(&r, at, execute, l->execute_bytes)) {
            ret->is_broken = 1;
            return;
        }
        struct php_frame f = { .address = at };
        uint32_t info = half_at(execute + l->execute_call_info);
        uint64_t func = word_at(execute + l->execute_func);
        at = word_at(execute + l->execute_prev);
        if (func == 0) /* a frame that C code put in: nothing to show */
            continue;
        if (!take_function(&r, func, function, &f)) {
            ret->is_broken = 1;
            return;
        }
        f.is_code = !f.is_internal && (info & l->call_code) != 0;
        f.is_top = (info & l->call_top) != 0;
        f.function = take_string(&r, word_at(function + l->function_name));
        take_class(&r, &f, word_at(function + l->function_scope));
        if (!f.is_internal) {
            f.file = take_file(&r, word_at(function + l->op_array_filename), &file_known, &file_at);
            f.line = find_line(&r, function, word_at(execute + l->execute_opline));
        }
        ret->frames[ret->n_frames++] = f;
    }
}

void php_stack_check(struct php_stack *s)
{
    if (s->n_frames > PHP_STACK_FRAMES)
        s->n_frames = PHP_STACK_FRAMES;
    s->texts[0] = s->texts[PHP_STACK_TEXT - 1] = '\0';
    for (uint32_t i = 0; i < s->n_frames; i++) {
        uint16_t *const offsets[] = { &s->frames[i].function, &s->frames[i].class_name,
                                      &s->frames[i].file };
        for (size_t k = 0; k < ARRAY_LENGTH(offsets); k++)
            if (*offsets[k] >= PHP_STACK_TEXT)
                *offsets[k] = 0;
    }
}

unsigned php_stack_user_frame(const struct php_stack *s, unsigned at)
{
    while (at < s->n_frames && (s->frames[at].is_internal || !s->frames[at].file))
        at++;
    return at;
}

/* No snprintf: a crashed worker's log line is made from this too. */
static void add(char *ret, size_t size, size_t *at, const char *text)
{
    for (; *text && *at + 1 < size; text++)
        ret[(*at)++] = *text;
    ret[*at] = '\0';
}

void php_frame_name(const struct php_stack *s, const struct php_frame *f, char *ret, size_t size)
{
    size_t at = 0;

    CHECK(size > 0);
    ret[0] = '\0';
    if (!f->function) {
        add(ret, size, &at, !f->is_code ? "???" : f->is_top ? "{main}" : "[INCLUDE_OR_EVAL]");
        return;
    }
    if (f->class_name) {
        add(ret, size, &at, php_stack_text(s, f->class_name));
        add(ret, size, &at, "::");
    }
    add(ret, size, &at, php_stack_text(s, f->function));
}
