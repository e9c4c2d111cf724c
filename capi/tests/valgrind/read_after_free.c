/* valgrind: Invalid read of size 1 */
#include "memory_pool.h"

/* Reads a block after its free. */
int main(void)
{
    memory_pool_t *pool = memory_pool_create(1 << 20, true);
    char *block = memory_pool_calloc(pool, 100, 1);
    memory_pool_free(pool, block);
    return *(volatile char *)&block[50];
}
