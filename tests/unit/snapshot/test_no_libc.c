/* The files that run while memory is being restored call nothing outside the room: read from the
 * objects themselves, because a compiler may make a call of a loop. */
#include <stdio.h>
#include <stdlib.h>

#include "test.h"

static const char *const files[] = { "arena_clean", "context",  "copy",
                                     "pagemap",     "rollback", "verify" };
/* Of the room, and what ends the process. */
static const char *const allowed[] = { "snapshot_", "pagemap_",
                                       "fds_",      "kernel_",
                                       "maps_",     "check_failed",
                                       "region_at", "_GLOBAL_OFFSET_TABLE_" };

static bool is_allowed(const char *symbol)
{
    for (size_t i = 0; i < ARRAY_LENGTH(allowed); i++)
        if (strncmp(symbol, allowed[i], strlen(allowed[i])) == 0)
            return true;
    return false;
}

static bool is_one_of_the_files(const char *member)
{
    for (size_t i = 0; i < ARRAY_LENGTH(files); i++)
        if (strncmp(member, files[i], strlen(files[i])) == 0 && member[strlen(files[i])] == '.')
            return true;
    return false;
}

TEST(what_restores_memory_calls_no_libc)
{
    char line[512], symbol[256];
    unsigned seen = 0;
    bool inside = false;
    FILE *nm = popen("nm -u " SNAPSHOT_LIBRARY, "re");

    EXPECT(nm);
    while (fgets(line, sizeof(line), nm)) {
        size_t n = strcspn(line, "\n");
        line[n] = '\0';
        if (n && line[n - 1] == ':') {
            const char *slash = strrchr(line, '/');
            inside = is_one_of_the_files(slash ? slash + 1 : line);
            seen += inside;
        } else if (inside && sscanf(line, " U %255s", symbol) == 1 && !is_allowed(symbol)) {
            test_fail(__FILE__, __LINE__, "%s is called while memory is restored", symbol);
        }
    }
    EXPECT_INT(pclose(nm), 0);
    EXPECT_INT(seen, ARRAY_LENGTH(files));
}
