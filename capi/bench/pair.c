/*
 * Allocates and frees: one block at a time, and 1024 at a time, of 64 bytes and 1 KiB. Prints the
 * nanoseconds that a block takes from allocation to free, the median of short rounds.
 *
 * With POOL defined, from a pool; else from malloc, whichever the program is run with.
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>

#include "rounds.h"

#ifdef POOL
#include "memory_pool.h"

static memory_pool_t *pool;

static bool prepare(void)
{
    pool = memory_pool_create((size_t)256 << 20, true);
    return pool != NULL;
}

#define ALLOCATE(size) memory_pool_alloc(pool, size)
#define FREE(block) memory_pool_free(pool, block)
#else
static bool prepare(void)
{
    return true;
}

#define ALLOCATE(size) malloc(size)
#define FREE(block) free(block)
#endif

enum { BURST = 1024, BURSTS_PER_ROUND = 20, PAIRS_PER_ROUND = 20000 };

static void pairs(size_t size)
{
    for (size_t i = 0; i < PAIRS_PER_ROUND; i++) {
        volatile char *block = ALLOCATE(size);
        *block = 1;
        FREE((void *)block);
    }
}

static void bursts(size_t size)
{
    static volatile char *blocks[BURST];
    for (size_t round = 0; round < BURSTS_PER_ROUND; round++) {
        for (size_t i = 0; i < BURST; i++) {
            blocks[i] = ALLOCATE(size);
            *blocks[i] = 1;
        }
        for (size_t i = 0; i < BURST; i++) {
            FREE((void *)blocks[i]);
        }
    }
}

static void measure(const char *name, void (*round)(size_t), size_t size, size_t blocks)
{
    double times[ROUNDS];
    round(size); /* once for caches, pages and predictors */
    for (size_t i = 0; i < ROUNDS; i++) {
        double start = now();
        round(size);
        times[i] = (now() - start) / (double)blocks;
    }
    printf("%s %.3f\n", name, median(times));
}

int main(void)
{
    if (!prepare()) {
        fputs("no pool\n", stderr);
        return 1;
    }
    measure("pair-64", pairs, 64, PAIRS_PER_ROUND);
    measure("pair-1024", pairs, 1024, PAIRS_PER_ROUND);
    measure("burst-64", bursts, 64, BURSTS_PER_ROUND * BURST);
    measure("burst-1024", bursts, 1024, BURSTS_PER_ROUND * BURST);
    return 0;
}
