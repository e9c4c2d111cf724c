/* The block defines what the header has defined already, to the same values. */
#include "seed.h"
#include "constants.inc"

int main(void)
{
    memory_pool_t *pool = memory_pool_create(1024 * 1024, false);
    CHECK(pool != NULL);
    void *ptr = memory_pool_alloc(pool, 1);
    CHECK((uintptr_t)ptr % DEFAULT_ALIGNMENT == 0);
    CHECK(MIN_BLOCK_SIZE >= sizeof(void *));
    for (size_t i = 1; i <= MAX_SIZE_CLASSES; i++) {
        CHECK(memory_pool_add_size_class(pool, 100 * i, 1) >= 0);
    }
    check_and_destroy(pool);
    return 0;
}
