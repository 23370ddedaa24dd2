/* Memory that ran out: what the control group counts, in version 2 and version 1. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/kernel_file.h"
#include "php/pool_int.h"

/* Folder of our memory control group: the lines of /proc/self/cgroup are "0::/path" (version 2) and
 * "4:memory:/path". In a container the path may be one of the host: then its root is ours. */
static bool find_group(char *ret, size_t size, bool *ret_is_v2)
{
    char text[4096], *line, *rest = text;
    bool has_v1 = false;

    if (!kernel_file_read("/proc/self/cgroup", text, sizeof(text)))
        return false;
    while ((line = strsep(&rest, "\n")) && *line) {
        char *controllers = strchr(line, ':'),
             *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = '\0';
        bool is_memory = strcmp(controllers + 1, "memory") == 0;
        if (!is_memory && (controllers[1] || has_v1))
            continue;
        const char *root = is_memory ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup";
        snprintf(ret, size, "%s%s", root, strcmp(path, "/") == 0 ? "" : path);
        if (access(ret, R_OK) < 0)
            snprintf(ret, size, "%s", root);
        *ret_is_v2 = !is_memory;
        has_v1 |= is_memory;
    }
    return ret[0] != '\0';
}

uint64_t oom_count(void)
{
    char group[2048] = "", path[2200], text[8192];
    bool is_v2 = true;

    if (find_group(group, sizeof(group), &is_v2)) {
        snprintf(path, sizeof(path), "%s/%s", group,
                 is_v2 ? "memory.events" : "memory.oom_control");
        if (kernel_file_read(path, text, sizeof(text)) && strstr(text, "oom_kill "))
            return kernel_file_number(text, "oom_kill ");
    }
    return kernel_file_read("/proc/vmstat", text, sizeof(text))
               ? kernel_file_number(text, "\noom_kill ")
               : 0;
}

void oom_put(struct buf *b)
{
    static const char *const v2[] = { "memory.events", "memory.max", "memory.current" };
    static const char *const v1[] = { "memory.oom_control", "memory.limit_in_bytes",
                                      "memory.usage_in_bytes", "memory.failcnt" };
    char group[2048] = "", path[2200], text[1024];
    bool is_v2 = true;

    if (!find_group(group, sizeof(group), &is_v2))
        return;
    const char *const *names = is_v2 ? v2 : v1;
    (void)!buf_printf(b, "\nmemory of the control group %s:\n", group);
    for (size_t i = 0; i < (is_v2 ? ARRAY_LENGTH(v2) : ARRAY_LENGTH(v1)); i++) {
        snprintf(path, sizeof(path), "%s/%s", group, names[i]);
        if (!kernel_file_read(path, text, sizeof(text)))
            continue;
        char *rest = text, *line;
        while ((line = strsep(&rest, "\n")))
            if (*line)
                (void)!buf_printf(b, "  %s: %s\n", names[i], line);
    }
}
