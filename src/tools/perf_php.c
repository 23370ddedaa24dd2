/*
 * PHP stacks for `sapid perf profile`. The server samples them itself, from outside its workers
 * (src/php/profile.c); this asks for them at its admin socket, which is found by the number of its
 * first process.
 */
#include <errno.h>
#include <unistd.h>

#include "base/mem.h"
#include "config/config.h"
#include "tools/perf_int.h"
#include "tools/tools.h"

enum { ANSWER_BYTES_MAX = 64 << 20 };

/* The admin socket of a server with socket = "auto"; NULL: there is none. */
static char *find_socket(pid_t pid)
{
    char **folders = config_admin_folders(), *found = NULL;

    for (char **it = folders; *it && !found; it++) {
        found = mem_printf("%s/%d.sock", *it, (int)pid);
        if (access(found, R_OK | W_OK) == 0)
            continue;
        mem_free(found);
        found = NULL;
    }
    config_admin_folders_free(folders);
    return found;
}

int perf_stacks_read(struct str text, struct perf_stacks *s)
{
    while (text.n) {
        struct str line = str_cut(&text, '\n');
        size_t at = line.n;
        uint64_t count;
        while (at > 0 && line.p[at - 1] != ' ')
            at--;
        if (at < 2 || !str_to_u64(str_skip(line, at), UINT64_MAX, &count))
            return -EPROTO;
        char *frames = mem_strndup(str_take(line, at - 1));
        perf_stacks_add(s, frames, count);
        mem_free(frames);
    }
    return 0;
}

int perf_php_sample(pid_t pid, uint64_t ms, uint64_t rate, struct perf_stacks *stacks,
                    char **ret_message)
{
    char *path = find_socket(pid);
    struct buf answer;

    if (!path) {
        *ret_message = mem_printf("process %d has no admin socket of this user, which PHP stacks "
                                  "come by ([admin] socket has to be \"auto\"; the process the "
                                  "first one of a sapid); --stacks c goes without",
                                  (int)pid);
        return -ENOENT;
    }
    char *target =
        mem_printf("/profile?ms=%llu&rate=%llu", (unsigned long long)ms, (unsigned long long)rate);
    buf_init(&answer, ANSWER_BYTES_MAX);
    int rc = admin_ask(path, "POST", target, &answer);
    if (rc < 0) {
        *ret_message = mem_printf("%s: POST %s: %s", path, target, strerror(-rc));
    } else if (rc != 200) {
        *ret_message = mem_printf("%s: POST %s answers %d: %.*s", path, target, rc,
                                  STR_ARG(str_trim(buf_view(&answer))));
        rc = -EPROTO;
    } else {
        rc = perf_stacks_read(buf_view(&answer), stacks);
        if (rc == 0 && stacks->n == 0)
            rc = -ENODATA;
        if (rc < 0)
            *ret_message = mem_printf("%s: POST %s gives no PHP stacks: %s", path, target,
                                      rc == -ENODATA ? "no worker was at a request, or this PHP's "
                                                       "stacks cannot be read (see the log)"
                                                     : strerror(-rc));
        perf_stacks_settle(stacks);
    }
    buf_fini(&answer);
    mem_free(target);
    mem_free(path);
    return rc < 0 ? rc : 0;
}
