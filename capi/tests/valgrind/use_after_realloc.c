/* valgrind: Invalid read of size 1 */
#include "memory_pool.h"

/* Reads what a block no longer has after it shrank. */
int main(void)
{
    memory_pool_t *pool = memory_pool_create(1 << 20, true);
    char *block = memory_pool_calloc(pool, 9000, 1);
    block = memory_pool_realloc(pool, block, 5000);
    return *(volatile char *)&block[5000];
}
