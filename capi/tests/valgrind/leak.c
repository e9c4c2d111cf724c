/* valgrind: are definitely lost */
#include "memory_pool.h"

/* Forgets a block. */
int main(void)
{
    memory_pool_t *pool = memory_pool_create(1 << 20, true);
    return memory_pool_alloc(pool, 100) == NULL;
}
