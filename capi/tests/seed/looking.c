#include "seed.h"

int main(void)
{
    memory_pool_t *pool = memory_pool_create(16 * 1024 * 1024, true);
    CHECK(pool != NULL);
    void *ptr = memory_pool_alloc(pool, 100);
    CHECK(ptr != NULL);
#include "looking.inc"
    CHECK(is_valid);
    CHECK(contains);
    CHECK(stats.live_objects == 1 && stats.live_bytes >= 100);
    check_and_destroy(pool);
    return 0;
}
