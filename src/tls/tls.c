/* Loading the module that has OpenSSL: see tls.h. */
#include "tls/tls.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/module.h"
#include "version.h"

const struct tls_module *tls_load(char message[TLS_MESSAGE_BYTES])
{
    static const struct tls_module *loaded;
    char path[PATH_MAX];

    if (loaded)
        return loaded;
    if (!module_find("tls", "sapid-tls.so", path, sizeof(path))) {
        snprintf(message, TLS_MESSAGE_BYTES,
                 "TLS needs the module sapid-tls.so beside the program or in ../lib/sapid: "
                 "install sapid whole, or build it again");
        return NULL;
    }
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        snprintf(message, TLS_MESSAGE_BYTES,
                 "the TLS module cannot be loaded (%s): install libssl3, or build sapid again",
                 dlerror());
        return NULL;
    }
    const struct tls_module *m = dlsym(lib, TLS_SYMBOL);
    if (!m || m->abi != TLS_ABI || strcmp(m->build, SAPID_VERSION) != 0) {
        snprintf(
            message, TLS_MESSAGE_BYTES,
            "TLS module %.100s belongs to another build of sapid (expected %s): install both from "
            "the same package",
            path, SAPID_VERSION);
        dlclose(lib);
        return NULL;
    }
    loaded = m;
    return m;
}
