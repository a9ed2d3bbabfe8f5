/* SPDX-License-Identifier: MIT */
/*
 * Clocks in nanoseconds. CLOCK_MONOTONIC for durations, CLOCK_REALTIME for the guest's wall clock.
 */
#ifndef CLONE_BASE_TIME_H
#define CLONE_BASE_TIME_H

#include <stdint.h>
#include <time.h>

#define NS_PER_SEC 1000000000ull
#define NS_PER_MS 1000000ull

static inline uint64_t time_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

static inline uint64_t time_mono_ns(void)
{
	return time_ns(CLOCK_MONOTONIC);
}

static inline uint64_t time_real_ns(void)
{
	return time_ns(CLOCK_REALTIME);
}

#endif
