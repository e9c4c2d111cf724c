/*
 * Slots of 2048 bytes in bulks of 32 through a local cache, beside DPDK's rte_mempool with its own
 * cache, inlined as DPDK has it. In one process, round by round in turn. Prints the nanoseconds
 * that an object takes from get to put.
 *
 * In order: the caches hold objects as they lie in memory. Shuffled: in random order.
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>

#include "memory_pool.h"
#include "rounds.h"

enum { OBJECT = 2048, OBJECTS = 8191, BULK = 32, MOST_HELD = 8 * BULK, STEPS = 4000 };

/* ---- The two -------------------------------------------------------------------------------- */

static memory_pool_local_t *local;
static int class_id;

static bool prepare_pool(void)
{
    size_t size = OBJECT;
    pool_config_t config = {
        .pool_size = (size_t)64 << 20,
        .thread_safe = true,
        .enable_size_classes = true,
        .size_class_sizes = &size,
        .num_size_classes = 1,
    };
    memory_pool_t *pool = memory_pool_create_with_config(&config);
    local = memory_pool_local_create(pool);
    class_id = memory_pool_class_of(pool, OBJECT);
    return local != NULL && class_id >= 0;
}

static inline bool pool_get(void **objects)
{
    return memory_pool_local_alloc_bulk(local, class_id, objects, BULK) == BULK;
}

static inline void pool_put(void **objects)
{
    memory_pool_local_free_bulk(local, class_id, objects, BULK);
}

#ifdef DPDK
#include <rte_eal.h>
#include <rte_mempool.h>

static struct rte_mempool *mempool;

static bool prepare_dpdk(void)
{
    char *arguments[] = {"bulk", "--no-huge", "--no-pci", "-m", "512", "--no-telemetry",
                         "--log-level=error", "-l", "0", NULL};
    if (rte_eal_init(sizeof arguments / sizeof *arguments - 1, arguments) < 0) {
        return false;
    }
    mempool = rte_mempool_create("bulk", OBJECTS, OBJECT, RTE_MEMPOOL_CACHE_MAX_SIZE, 0, NULL, NULL,
                                 NULL, NULL, SOCKET_ID_ANY, 0);
    return mempool != NULL;
}

static inline bool dpdk_get(void **objects)
{
    return rte_mempool_get_bulk(mempool, objects, BULK) == 0;
}

static inline void dpdk_put(void **objects)
{
    rte_mempool_put_bulk(mempool, objects, BULK);
}
#endif

/* ---- Rounds --------------------------------------------------------------------------------- */

typedef bool get_function(void **objects);
typedef void put_function(void **objects);

/* Always inlined, so that the functions are known and inlined too where they can be. */
#define TEMPLATE static inline __attribute__((always_inline))

static void shuffle(void **objects, size_t count)
{
    for (size_t left = count; left > 1; left--) {
        size_t at = (size_t)rand() % left;
        void *object = objects[at];
        objects[at] = objects[left - 1];
        objects[left - 1] = object;
    }
}

static int compare_addresses(const void *left, const void *right)
{
    const char *a = *(char *const *)left, *b = *(char *const *)right;
    return (a > b) - (a < b);
}

/* Has the cache hold objects in the order wanted. */
TEMPLATE bool arrange(get_function *get, put_function *put, bool shuffled)
{
    void *held[MOST_HELD];
    for (size_t i = 0; i < MOST_HELD; i += BULK) {
        if (!get(held + i)) {
            return false;
        }
    }
    qsort(held, MOST_HELD, sizeof *held, compare_addresses);
    if (shuffled) {
        shuffle(held, MOST_HELD);
    }
    for (size_t i = 0; i < MOST_HELD; i += BULK) {
        put(held + i);
    }
    return true;
}

/* Gets `hold` objects in bulks and puts them back, again and again: the time of each. */
TEMPLATE double time_round(get_function *get, put_function *put, size_t hold)
{
    void *held[MOST_HELD];
    double start = now();
    for (size_t step = 0; step < STEPS; step += hold / BULK) {
        for (size_t i = 0; i < hold; i += BULK) {
            if (!get(held + i)) {
                fputs("an object is missing\n", stderr);
                exit(1);
            }
        }
        __asm__ volatile("" : : "r"(held) : "memory");
        for (size_t i = 0; i < hold; i += BULK) {
            put(held + i);
        }
    }
    return (now() - start) / ((double)STEPS * BULK);
}

static void measure(const char *name, size_t hold, bool shuffled)
{
    double ours[ROUNDS], theirs[ROUNDS] = {0};
    arrange(pool_get, pool_put, shuffled);
#ifdef DPDK
    arrange(dpdk_get, dpdk_put, shuffled);
#endif
    for (size_t i = 0; i < ROUNDS; i++) {
        ours[i] = time_round(pool_get, pool_put, hold);
#ifdef DPDK
        theirs[i] = time_round(dpdk_get, dpdk_put, hold);
#endif
    }
    printf("%s pool %.4f\n", name, median(ours));
    if (theirs[0] > 0) {
        printf("%s dpdk %.4f\n", name, median(theirs));
    }
}

int main(void)
{
    if (!prepare_pool()) {
        fputs("no pool\n", stderr);
        return 1;
    }
#ifdef DPDK
    if (!prepare_dpdk()) {
        fputs("no mempool\n", stderr);
        return 1;
    }
#endif
    measure("bulk", BULK, false);
    measure("bulk-shuffled", BULK, true);
    measure("bulk-8", MOST_HELD, false);
    measure("bulk-8-shuffled", MOST_HELD, true);
    return 0;
}
