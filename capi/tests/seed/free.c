/* The block frees one pointer in both ways: the second is a double free, and refused. */
#include "seed.h"

int main(void)
{
    memory_pool_t *pool = memory_pool_create(16 * 1024 * 1024, true);
    CHECK(pool != NULL);
    void *ptr = memory_pool_alloc_fixed(pool, 100);
    CHECK(ptr != NULL);
#include "free.inc"
    CHECK(memory_pool_get_last_error() == POOL_ERROR_DOUBLE_FREE);
    pool_stats_t stats;
    CHECK(memory_pool_get_stats(pool, &stats));
    CHECK(stats.live_objects == 0);
    check_and_destroy(pool);
    return 0;
}
