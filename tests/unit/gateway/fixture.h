/* A document root in a fresh folder of /tmp, removed when the test's process ends. */
#ifndef SAPID_TESTS_GATEWAY_FIXTURE_H
#define SAPID_TESTS_GATEWAY_FIXTURE_H

#include "gateway/files.h"
#include "test.h"

extern char fixture_root[64];
extern int fixture_fd;
extern struct config_pool
    fixture_pool; /* front controller index.php; index: index.php, index.html */

void fixture_make(void);
/* Paths relative to the root; folders on the way are made. */
void fixture_write(const char *path, struct str content);
void fixture_link(const char *target, const char *path);
/* Modification time, in whole seconds. */
void fixture_touch(const char *path, int64_t mtime_s);
struct files *fixture_files(void);

#endif
