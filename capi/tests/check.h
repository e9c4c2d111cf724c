/*
 * check.h - what the C tests assert with. A failed check names itself and ends the program.
 *
 * Include it first: it asks the system's headers for POSIX.
 */
#ifndef CHECK_H
#define CHECK_H

#define _DEFAULT_SOURCE

#include "memory_pool.h"

#include <stdlib.h>

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

static const char *check_running = "";

/** The condition holds. */
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            check_failed(__FILE__, __LINE__, #condition);                                          \
        }                                                                                          \
    } while (0)

/** The call returns NULL, false or 0, and `error` is its reason. */
#define CHECK_FAILS(call, error)                                                                   \
    do {                                                                                           \
        check_set_another_error(error);                                                            \
        CHECK(!(call));                                                                            \
        CHECK(memory_pool_get_last_error() == (error));                                            \
    } while (0)

/** The call returns minus `error`, which is the reason. */
#define CHECK_NEGATIVE(call, error)                                                                \
    do {                                                                                           \
        check_set_another_error(error);                                                            \
        CHECK((call) == -(int)(error));                                                            \
        CHECK(memory_pool_get_last_error() == (error));                                            \
    } while (0)

/** Runs one test, whose name a failed check tells. */
#define RUN(test)                                                                                  \
    do {                                                                                           \
        check_running = #test;                                                                     \
        test();                                                                                    \
    } while (0)

static inline void check_failed(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: %s: %s does not hold; last error: %s\n", file, line, check_running,
            what, memory_pool_error_string(memory_pool_get_last_error()));
    exit(1);
}

/** Whether the last error is that memory was short, for whichever reason. */
static inline bool check_was_short(void)
{
    pool_error_t error = memory_pool_get_last_error();
    return error == POOL_ERROR_OUT_OF_MEMORY || error == POOL_ERROR_FRAGMENTED ||
           error == POOL_ERROR_RESERVED;
}

/** Makes the last error another one, so that the next failure is seen to set it. */
static inline void check_set_another_error(pool_error_t error)
{
    if (error == POOL_ERROR_NULL_POINTER) {
        memory_pool_create(0, false);
    } else {
        memory_pool_validate(NULL);
    }
}

/** Pseudo-random numbers below `bound`, the same in every run. */
static inline uint32_t check_random(uint32_t *state, uint32_t bound)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state % bound;
}

/** Whether this runs under valgrind: `make memcheck` says so. */
static inline bool check_is_slow(void)
{
    return getenv("CHECK_SLOW") != NULL;
}

/** How often a test repeats something. */
static inline unsigned check_rounds(unsigned rounds)
{
    return check_is_slow() ? (rounds + 19) / 20 : rounds;
}

/** A pool of one MiB with flags: with classes or the heap alone, for one thread or many. */
static inline memory_pool_t *check_pool_with(uint32_t flags, bool classes, bool thread_safe)
{
    pool_config_t config;
    memset(&config, 0, sizeof config);
    config.pool_size = MIB;
    config.flags = flags;
    config.thread_safe = thread_safe;
    config.enable_size_classes = classes;
    memory_pool_t *pool = memory_pool_create_with_config(&config);
    CHECK(pool != NULL);
    return pool;
}

/** The same without flags. */
static inline memory_pool_t *check_pool(bool classes, bool thread_safe)
{
    return check_pool_with(0, classes, thread_safe);
}

/** Runs a test on each kind of pool that check_pool() makes; the pool must end valid and empty. */
#define RUN_ON_EACH_POOL(test) check_on_each_pool(#test, test)

static inline void check_on_each_pool(const char *name, void (*test)(memory_pool_t *pool))
{
    check_running = name;
    for (int kind = 0; kind < 4; kind++) {
        memory_pool_t *pool = check_pool(kind & 1, kind & 2);
        test(pool);
        pool_stats_t stats;
        CHECK(memory_pool_get_stats(pool, &stats));
        CHECK(stats.live_objects == 0);
        CHECK(memory_pool_validate(pool));
        memory_pool_destroy(pool);
    }
}

/** Fills a block with bytes that tell it from others. */
static inline void check_fill(void *block, size_t size, unsigned char seed)
{
    unsigned char *bytes = block;
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (unsigned char)(seed + i);
    }
}

/** Whether check_fill() was the last to write the block. */
static inline bool check_filled(const void *block, size_t size, unsigned char seed)
{
    const unsigned char *bytes = block;
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != (unsigned char)(seed + i)) {
            return false;
        }
    }
    return true;
}

/** Whether all bytes have this value. */
static inline bool check_all(const void *block, size_t size, unsigned char value)
{
    const unsigned char *bytes = block;
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != value) {
            return false;
        }
    }
    return true;
}

static inline pool_stats_t check_stats(memory_pool_t *pool)
{
    pool_stats_t stats;
    CHECK(memory_pool_get_stats(pool, &stats));
    return stats;
}

#endif /* CHECK_H */
