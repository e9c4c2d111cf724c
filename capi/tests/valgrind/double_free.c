/* valgrind: Invalid free */
#include "memory_pool.h"

/* Frees a block twice. */
int main(void)
{
    memory_pool_t *pool = memory_pool_create(1 << 20, true);
    void *block = memory_pool_alloc(pool, 100);
    memory_pool_free(pool, block);
    return memory_pool_free(pool, block);
}
