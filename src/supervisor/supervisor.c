/* supervisor: see supervisor.h. */
