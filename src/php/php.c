/* php: see php.h. */
