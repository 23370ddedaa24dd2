/* channel: see channel.h. */
