/* Which code asks getpid() to find out whether it was forked: see interpose.c. */
#include <errno.h>
#include <link.h>
#include <string.h>

#include "snapshot/snapshot_int.h"

struct search {
    const char *library;
    int found;
};

static int look(struct dl_phdr_info *info, size_t size, void *context)
{
    struct snapshot_self *s = snapshot_self;
    struct search *c = context;
    const char *slash = strrchr(info->dlpi_name, '/');
    const char *name = slash ? slash + 1 : info->dlpi_name;

    (void)size;
    if (strncmp(name, c->library, strlen(c->library)) != 0)
        return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type != PT_LOAD || !(p->p_flags & PF_X))
            continue;
        if (s->n_detectors == ARRAY_LENGTH(s->detectors))
            return -ENOSPC;
        uintptr_t start = info->dlpi_addr + p->p_vaddr;
        s->detectors[s->n_detectors++] = (struct range){ start, start + p->p_memsz };
    }
    c->found++;
    return 0;
}

int snapshot_detect_by_pid(const char *library)
{
    struct search c = { library, 0 };

    CHECK(snapshot_self && *library);
    int rc = dl_iterate_phdr(look, &c);
    return rc < 0 ? rc : c.found;
}
