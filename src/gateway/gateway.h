/*
 * gateway: the process that owns every client connection. Speaks HTTP, serves files, hands PHP
 * requests to the pools' channels. Runs no PHP and survives any crash of it.
 */
#ifndef SAPID_GATEWAY_GATEWAY_H
#define SAPID_GATEWAY_GATEWAY_H

#include <stdio.h>

#include "config/config.h"

/* Body of `sapid @gateway`: descriptors 3 (control) and 4 (boot) are open. Returns the exit status.
 */
int gateway_main(void);

/* `sapid check --explain`: routes a GET of `url` ("/path?query" or with scheme and host) as the
 * gateway would and says which route, pool and file take it, and why. `document_roots`: by pool,
 * symlinks resolved. 0; 1 when the URL cannot be a request or a document root cannot be opened. */
int gateway_explain(const struct config *c, const char *const *document_roots, const char *url,
                    FILE *out);

#endif
