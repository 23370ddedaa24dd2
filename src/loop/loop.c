/* loop: see loop.h. */
