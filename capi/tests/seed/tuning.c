#include "seed.h"

int main(void)
{
    memory_pool_t *pool = memory_pool_create(16 * 1024 * 1024, true);
    CHECK(pool != NULL);
#include "tuning.inc"
    CHECK(class_id >= 0);
    CHECK(memory_pool_class_of(pool, 1024) >= 0);
    CHECK(memory_pool_get_last_error() == POOL_OK);
    check_and_destroy(pool);
    return 0;
}
