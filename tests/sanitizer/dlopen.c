/*
 * Only in builds with -Db_sanitize=address: lets PHP load its extensions. PHP opens them with
 * RTLD_DEEPBIND, which the sanitizer's own dlopen answers by ending the process. This one stands
 * before it, and drops the flag: the extensions of a distribution do not depend on it.
 */
#include <dlfcn.h>

void *sanitizer_dlopen(const char *path, int flags) __asm__("__interceptor_dlopen");

__attribute__((visibility("default"))) void *dlopen(const char *path, int flags)
{
    return sanitizer_dlopen(path, flags & ~RTLD_DEEPBIND);
}
