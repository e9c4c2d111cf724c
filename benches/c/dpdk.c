// rte_mempool at its best: DPDK's inlined functions in loops of constant length, cache of 512.

#include <stdint.h>
#include <stdlib.h>

#include <rte_eal.h>
#include <rte_mempool.h>

#define CACHE 512
#define LONGEST 1024

static void *table[LONGEST];

int peer_dpdk_start(void) {
    char *arguments[] = {"fixed",     "--no-huge",      "--no-pci",    "-m", "512",
                         "--no-telemetry", "--no-shconf", "--log-level", "error"};
    return rte_eal_init(sizeof arguments / sizeof *arguments, arguments);
}

struct rte_mempool *peer_dpdk_new(const char *name, unsigned size, unsigned count) {
    return rte_mempool_create(name, count, size, CACHE, 0, NULL, NULL, NULL, NULL, SOCKET_ID_ANY, 0);
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

void peer_dpdk_burst(struct rte_mempool *pool, uint32_t rounds) {
    for (uint32_t round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < LONGEST; i++)
            if (rte_mempool_get(pool, &table[i]) != 0)
                abort();
        __asm__ volatile("" : : : "memory");
        for (unsigned i = 0; i < LONGEST; i++)
            rte_mempool_put(pool, table[i]);
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

// As bulk, with as many objects out at a time as a burst has, freed in the order of allocation.
static inline __attribute__((always_inline)) void fifo(struct rte_mempool *pool, unsigned n,
                                                       uint32_t rounds) {
    for (uint32_t round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < LONGEST; i += n)
            if (rte_mempool_get_bulk(pool, table + i, n) != 0)
                abort();
        __asm__ volatile("" : : : "memory");
        for (unsigned i = 0; i < LONGEST; i += n)
            rte_mempool_put_bulk(pool, table + i, n);
    }
}

void peer_dpdk_fifo(struct rte_mempool *pool, uint32_t rounds) { fifo(pool, 32, rounds); }

// Frees `count` objects in the order that `order` gives.
void peer_dpdk_shuffle(struct rte_mempool *pool, const uint32_t *order, unsigned count) {
    void **all = malloc(count * sizeof *all);
    if (all == NULL || rte_mempool_get_bulk(pool, all, count) != 0)
        abort();
    for (unsigned i = 0; i < count; i++)
        rte_mempool_put(pool, all[order[i]]);
    free(all);
}
