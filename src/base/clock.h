/* Clocks in nanoseconds. Monotonic for deadlines, realtime for what people read. */
#ifndef SAPID_BASE_CLOCK_H
#define SAPID_BASE_CLOCK_H

#include <stdint.h>

#define NS_PER_S UINT64_C(1000000000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_US UINT64_C(1000)

uint64_t clock_monotonic_ns(void);
uint64_t clock_realtime_ns(void);
/* CPU time of the calling process. */
uint64_t clock_cpu_ns(void);

#endif
