// rte_mempool at its best: DPDK's inlined functions in loops of constant length.

#include <stdint.h>
#include <stdlib.h>

#include <rte_eal.h>
#include <rte_lcore.h>
#include <rte_mempool.h>

#define LONGEST 1024

static void *table[LONGEST];

// On the calling thread, pinned to a core.
int peer_dpdk_start(char *core) {
    char *arguments[] = {"compare",        "-l",          core,          "--no-huge",
                         "--no-pci",       "-m",          "2048",        "--no-telemetry",
                         "--no-shconf",    "--log-level", "error"};
    return rte_eal_init(sizeof arguments / sizeof *arguments, arguments);
}

// A thread that DPDK did not start has a cache only between these two.
int peer_dpdk_enter(void) { return rte_lcore_id() == LCORE_ID_ANY ? rte_thread_register() : 0; }

void peer_dpdk_leave(struct rte_mempool *pool) {
    struct rte_mempool_cache *cache = rte_mempool_default_cache(pool, rte_lcore_id());
    if (cache != NULL)
        rte_mempool_cache_flush(cache, pool);
    if (rte_lcore_id() != rte_get_main_lcore())
        rte_thread_unregister();
}

struct rte_mempool *peer_dpdk_new(const char *name, unsigned size, unsigned count, unsigned cache) {
    return rte_mempool_create(name, count, size, cache, 0, NULL, NULL, NULL, NULL, SOCKET_ID_ANY, 0);
}

void peer_dpdk_end(struct rte_mempool *pool) { rte_mempool_free(pool); }

void *peer_dpdk_get(struct rte_mempool *pool) {
    void *object;
    return rte_mempool_get(pool, &object) == 0 ? object : NULL;
}

void peer_dpdk_put(struct rte_mempool *pool, void *object) { rte_mempool_put(pool, object); }

int peer_dpdk_get_bulk(struct rte_mempool *pool, void **objects, unsigned n) {
    return rte_mempool_get_bulk(pool, objects, n);
}

void peer_dpdk_put_bulk(struct rte_mempool *pool, void *const *objects, unsigned n) {
    rte_mempool_put_bulk(pool, objects, n);
}

void peer_dpdk_pairs(struct rte_mempool *pool, uint32_t rounds) {
    for (uint32_t round = 0; round < rounds; round++) {
        void *object;
        if (rte_mempool_get(pool, &object) != 0)
            abort();
        __asm__ volatile("" : "+r"(object) : : "memory");
        rte_mempool_put(pool, object);
    }
}

static inline __attribute__((always_inline)) void bulk(struct rte_mempool *pool, unsigned n,
                                                       uint32_t rounds) {
    for (uint32_t round = 0; round < rounds; round++) {
        if (rte_mempool_get_bulk(pool, table, n) != 0)
            abort();
        __asm__ volatile("" : : : "memory");
        rte_mempool_put_bulk(pool, table, n);
    }
}

void peer_dpdk_bulk(struct rte_mempool *pool, unsigned n, uint32_t rounds) {
    switch (n) {
    case 1: bulk(pool, 1, rounds); break;
    case 4: bulk(pool, 4, rounds); break;
    case 8: bulk(pool, 8, rounds); break;
    case 32: bulk(pool, 32, rounds); break;
    case 128: bulk(pool, 128, rounds); break;
    default: abort();
    }
}

// 1024 one by one, their first words written; the two halves are timed apart.
void peer_dpdk_burst_get(struct rte_mempool *pool) {
    for (unsigned i = 0; i < LONGEST; i++) {
        if (rte_mempool_get(pool, &table[i]) != 0)
            abort();
        *(volatile uintptr_t *)table[i] = 1;
    }
}

void peer_dpdk_burst_put(struct rte_mempool *pool, const uint32_t *order) {
    for (unsigned i = 0; i < LONGEST; i++)
        rte_mempool_put(pool, table[order[i]]);
}

// As bulk, with 1024 out at a time, freed in the order of allocation.
void peer_dpdk_fifo(struct rte_mempool *pool, uint32_t rounds) {
    for (uint32_t round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < LONGEST; i += 32)
            if (rte_mempool_get_bulk(pool, table + i, 32) != 0)
                abort();
        __asm__ volatile("" : : : "memory");
        for (unsigned i = 0; i < LONGEST; i += 32)
            rte_mempool_put_bulk(pool, table + i, 32);
    }
}
