/* gateway: see gateway.h. */
