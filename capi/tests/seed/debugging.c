#include "seed.h"

int main(void)
{
    memory_pool_t *pool = memory_pool_create(1024 * 1024, true);
    CHECK(pool != NULL);
    CHECK(memory_pool_alloc(pool, 0) == NULL);
#include "debugging.inc"
    CHECK(error == POOL_ERROR_INVALID_SIZE);
    CHECK(DEBUG == 1);
    check_and_destroy(pool);
    return 0;
}
