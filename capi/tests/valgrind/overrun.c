/* valgrind: Invalid write of size 1 */
#include "memory_pool.h"

/* Writes one byte beyond a block. */
int main(void)
{
    memory_pool_t *pool = memory_pool_create(1 << 20, true);
    char *block = memory_pool_alloc(pool, 100);
    block[100] = 'x';
    return 0;
}
