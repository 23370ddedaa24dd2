/*
 * gateway: the process that owns every client connection. Speaks HTTP, serves files, hands PHP
 * requests to the pools' channels. Runs no PHP and survives any crash of it.
 */
#ifndef SAPID_GATEWAY_GATEWAY_H
#define SAPID_GATEWAY_GATEWAY_H

/* Body of `sapid @gateway`: descriptors 3 (control) and 4 (boot) are open. Returns the exit status.
 */
int gateway_main(void);

#endif
