/*
 * Signal actions, limits, priority and timers are 90 questions to the kernel, most of what a small
 * rollback costs, and jobs hardly ever change them. So the calls that do are noted, and rollback
 * asks only after one of them.
 *
 * Such a note is worth nothing if there is a way around it, so the ways are closed one by one:
 * - libc's functions are defined here in its stead, as in interpose.c, syscall() included.
 * - Libraries that find libc's own first (RTLD_DEEPBIND, which is how PHP loads extensions, with
 *   all that those are linked with) are bound to ours when the image is made: watch_bind() writes
 *   our address where their linker has written, or would write, libc's.
 * - A library that a job loads is not bound, but has to be mapped, and is unmapped by the rollback:
 *   one that finds the size of the process changed asks.
 * - Machine code that makes system calls itself (a foreign function interface) is for the caller to
 *   announce: snapshot_plan.raw_calls, and rollback asks every time, as it does with `verify`.
 * - Every 64th rollback asks all the same. If it then finds something that nobody announced, there
 *   is a way around that this list does not know, and from then on this process asks every time.
 */
#undef _FILE_OFFSET_BITS /* it would rename setrlimit to setrlimit64; both are defined here */
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "snapshot/snapshot_int.h"

#if !SNAPSHOT_HAS_SANITIZER

static void touch(void)
{
    if (unlikely(snapshot_self != NULL))
        snapshot_self->state_touched = true;
}

/* --- in libc's stead -------------------------------------------------------------------------- */

/* Declares `next`: libc's function, once it is known; and notes that ours was called. */
#define NEXT(name, type)                     \
    static __typeof__(type) next;            \
    if (!next)                               \
        next = (type)dlsym(RTLD_NEXT, name); \
    touch()

#pragma GCC visibility push(default)

typedef void handler(int);

int sigaction(int number, const struct sigaction *action, struct sigaction *before)
{
    static int (*next)(int, const struct sigaction *, struct sigaction *);

    if (!next)
        next = (__typeof__(next))dlsym(RTLD_NEXT, "sigaction");
    if (action)
        touch();
    return next(number, action, before);
}

handler *signal(int number, handler *action)
{
    NEXT("signal", handler * (*)(int, handler *));
    return next(number, action);
}

handler *sysv_signal(int number, handler *action)
{
    NEXT("sysv_signal", handler * (*)(int, handler *));
    return next(number, action);
}

handler *sigset(int number, handler *action)
{
    NEXT("sigset", handler * (*)(int, handler *));
    return next(number, action);
}

int sigignore(int number)
{
    NEXT("sigignore", int (*)(int));
    return next(number);
}

int siginterrupt(int number, int interrupts)
{
    NEXT("siginterrupt", int (*)(int, int));
    return next(number, interrupts);
}

int setitimer(__itimer_which_t which, const struct itimerval *value, struct itimerval *before)
{
    touch();
    return libc_answer(raw3(SYS_setitimer, which, (long)value, (long)before));
}

unsigned alarm(unsigned seconds)
{
    NEXT("alarm", unsigned (*)(unsigned));
    return next(seconds);
}

useconds_t ualarm(useconds_t value, useconds_t interval)
{
    NEXT("ualarm", useconds_t(*)(useconds_t, useconds_t));
    return next(value, interval);
}

int prlimit(pid_t pid, __rlimit_resource_t resource, const struct rlimit *now,
            struct rlimit *before)
{
    if (now)
        touch();
    return libc_answer(raw4(SYS_prlimit64, pid, resource, (long)now, (long)before));
}

int prlimit64(pid_t pid, __rlimit_resource_t resource, const struct rlimit64 *now,
              struct rlimit64 *before) __attribute__((alias("prlimit")));

int setrlimit(__rlimit_resource_t resource, const struct rlimit *now)
{
    return prlimit(0, resource, now, NULL);
}

int setrlimit64(__rlimit_resource_t resource, const struct rlimit64 *now)
    __attribute__((alias("setrlimit")));

int setpriority(__priority_which_t which, id_t who, int priority)
{
    NEXT("setpriority", int (*)(__priority_which_t, id_t, int));
    return next(which, who, priority);
}

int nice(int more)
{
    NEXT("nice", int (*)(int));
    return next(more);
}

int prctl(int option, ...)
{
    long argument[4];
    va_list ap;

    va_start(ap, option);
    for (int i = 0; i < 4; i++)
        argument[i] = va_arg(ap, long);
    va_end(ap);
    if (option == PR_SET_NO_NEW_PRIVS)
        touch();
    return libc_answer(raw5(SYS_prctl, option, argument[0], argument[1], argument[2], argument[3]));
}

static bool changes_state(long number)
{
    static const long numbers[] = {
        SYS_rt_sigaction, SYS_setitimer,   SYS_timer_create, SYS_prlimit64,
        SYS_setrlimit,    SYS_setpriority, SYS_prctl,
#ifdef SYS_alarm
        SYS_alarm,
#endif
    };

    for (size_t i = 0; i < ARRAY_LENGTH(numbers); i++)
        if (number == numbers[i])
            return true;
    return false;
}

long syscall(long number, ...)
{
    long argument[6];
    va_list ap;

    va_start(ap, number);
    for (int i = 0; i < 6; i++)
        argument[i] = va_arg(ap, long);
    va_end(ap);
    if (changes_state(number))
        touch();
    long rc = raw_call(number, argument[0], argument[1], argument[2], argument[3], argument[4],
                       argument[5]);
    if (rc < 0 && rc > -4096) {
        errno = (int)-rc;
        return -1;
    }
    return rc;
}

/* libc's own keeps more than the kernel's id. */
int timer_create(clockid_t clock, struct sigevent *event, timer_t *ret)
{
    if (snapshot_self)
        snapshot_self->timers_touched = true;
    NEXT("timer_create", int (*)(clockid_t, struct sigevent *, timer_t *));
    return next(clock, event, ret);
}

#pragma GCC visibility pop

/* --- libraries that were bound to libc's ------------------------------------------------------ */

#if defined(__x86_64__)
enum { SLOT_CALL = R_X86_64_JUMP_SLOT, SLOT_DATA = R_X86_64_GLOB_DAT, SLOT_WORD = R_X86_64_64 };
#else
enum {
    SLOT_CALL = R_AARCH64_JUMP_SLOT,
    SLOT_DATA = R_AARCH64_GLOB_DAT,
    SLOT_WORD = R_AARCH64_ABS64
};
#endif

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
static const struct {
    const char *name;
    void *ours;
} watched[] = {
    { "sigaction", (void *)sigaction },
    { "__sigaction", (void *)sigaction },
    { "signal", (void *)signal },
    { "bsd_signal", (void *)signal },
    { "ssignal", (void *)signal },
    { "sysv_signal", (void *)sysv_signal },
    { "__sysv_signal", (void *)sysv_signal },
    { "sigset", (void *)sigset },
    { "sigignore", (void *)sigignore },
    { "siginterrupt", (void *)siginterrupt },
    { "setitimer", (void *)setitimer },
    { "alarm", (void *)alarm },
    { "ualarm", (void *)ualarm },
    { "prlimit", (void *)prlimit },
    { "prlimit64", (void *)prlimit },
    { "setrlimit", (void *)setrlimit },
    { "setrlimit64", (void *)setrlimit },
    { "setpriority", (void *)setpriority },
    { "nice", (void *)nice },
    { "prctl", (void *)prctl },
    { "syscall", (void *)syscall },
    { "timer_create", (void *)timer_create },
};
#pragma GCC diagnostic pop

static void *ours(const char *name)
{
    for (size_t i = 0; i < ARRAY_LENGTH(watched); i++)
        if (name[0] == watched[i].name[0] && strcmp(name, watched[i].name) == 0)
            return watched[i].ours;
    return NULL;
}

struct object {
    uintptr_t base;
    struct range sealed; /* unwritable since it was linked */
    const ElfW(Sym) * symbols;
    const char *names;
};

static int bind_slot(const struct object *o, void **slot, void *to)
{
    uintptr_t at = (uintptr_t)slot, page = page_down(at);
    bool sealed = at >= o->sealed.start && at < o->sealed.end;
    long rc = 0;

    if (*slot == to)
        return 0;
    if (sealed)
        rc = raw_mprotect(page, PAGE_BYTES, PROT_READ | PROT_WRITE);
    if (rc == 0)
        *slot = to;
    if (rc == 0 && sealed)
        rc = raw_mprotect(page, PAGE_BYTES, PROT_READ);
    return (int)rc;
}

static int bind_table(const struct object *o, const ElfW(Rela) * r, size_t bytes)
{
    int rc = 0;

    for (size_t n = bytes / sizeof(*r); n && rc == 0; n--, r++) {
        unsigned type = (unsigned)ELF64_R_TYPE(r->r_info);
        const ElfW(Sym) *symbol = &o->symbols[ELF64_R_SYM(r->r_info)];
        if ((type != SLOT_CALL && type != SLOT_DATA && type != SLOT_WORD) ||
            symbol->st_shndx != SHN_UNDEF || r->r_addend)
            continue;
        void *to = ours(o->names + symbol->st_name);
        if (to)
            rc = bind_slot(o, (void **)(o->base + r->r_offset), to);
    }
    return rc;
}

static int bind_object(struct dl_phdr_info *info, size_t size, void *context)
{
    struct object o = { .base = info->dlpi_addr };
    const ElfW(Dyn) *d = NULL;
    const ElfW(Rela) *table = NULL, *calls = NULL;
    size_t table_bytes = 0, calls_bytes = 0;

    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type == PT_DYNAMIC)
            d = (const ElfW(Dyn) *)(o.base + p->p_vaddr);
        if (p->p_type == PT_GNU_RELRO)
            o.sealed = (struct range){ page_down(o.base + p->p_vaddr),
                                       page_down(o.base + p->p_vaddr + p->p_memsz) };
    }
    /* libc's own calls are not bound by name; the kernel's object has no tables. */
    if (!d || o.base == *(const uintptr_t *)context)
        return 0;
    for (; d->d_tag != DT_NULL; d++) {
        uintptr_t at = d->d_un.d_ptr < o.base ? o.base + d->d_un.d_ptr : d->d_un.d_ptr;
        switch (d->d_tag) {
        case DT_SYMTAB: o.symbols = (const ElfW(Sym) *)at; break;
        case DT_STRTAB: o.names = (const char *)at; break;
        case DT_RELA: table = (const ElfW(Rela) *)at; break;
        case DT_RELASZ: table_bytes = d->d_un.d_val; break;
        case DT_JMPREL: calls = (const ElfW(Rela) *)at; break;
        case DT_PLTRELSZ: calls_bytes = d->d_un.d_val; break;
        default: break;
        }
    }
    if (!o.symbols || !o.names)
        return 0;
    int rc = table ? bind_table(&o, table, table_bytes) : 0;
    return rc == 0 && calls ? bind_table(&o, calls, calls_bytes) : rc;
}

int watch_bind(void)
{
    Dl_info libc;
    void *theirs = dlsym(RTLD_NEXT, "sigaction");

    if (!theirs || !dladdr(theirs, &libc))
        return -ENOSYS;
    uintptr_t base = (uintptr_t)libc.dli_fbase;
    return dl_iterate_phdr(bind_object, &base);
}

#else
int watch_bind(void)
{
    return -ENOTSUP;
}
#endif
