/* A library that is loaded with RTLD_DEEPBIND, as PHP loads its extensions: its calls find libc's
 * functions before those of the program. */
#include <signal.h>
#include <sys/resource.h>
#include <time.h>

void plugin_change_state(void);

void plugin_change_state(void)
{
    struct rlimit core;
    timer_t timer;

    (void)signal(SIGUSR1, SIG_IGN);
    (void)getrlimit(RLIMIT_CORE, &core);
    core.rlim_cur = core.rlim_cur ? 0 : 1;
    if (core.rlim_max)
        (void)setrlimit(RLIMIT_CORE, &core);
    (void)timer_create(CLOCK_MONOTONIC, NULL, &timer);
}
