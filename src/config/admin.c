/*
 * Where admin sockets are when nobody named a place: the server puts its own there, and `sapid
 * status` looks for it there.
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"
#include "config/config.h"

enum { FOLDERS_MAX = 5 };

char **config_admin_folders(void)
{
    char **v = mem_zalloc((FOLDERS_MAX + 1) * sizeof(*v));
    const char *service = getenv("RUNTIME_DIRECTORY"), *session = getenv("XDG_RUNTIME_DIR");
    size_t n = 0;

    if (service && service[0] == '/')
        v[n++] = mem_strndup(str_take(str_from(service), strcspn(service, ":")));
    v[n++] = mem_strdup("/run/sapid");
    if (session && session[0] == '/')
        v[n++] = mem_printf("%s/sapid", session);
    v[n++] = mem_printf("/tmp/sapid-%u", (unsigned)geteuid());
    return v;
}

void config_admin_folders_free(char **folders)
{
    for (char **it = folders; it && *it; it++)
        mem_free(*it);
    mem_free(folders);
}
