/* valgrind: 100 bytes in 1 blocks are definitely lost */
#include "memory_pool.h"

#include <stdlib.h>

/* Valgrind looks for lost blocks only if malloc has handed out one. */
static void *volatile kept;

/* Forgets a block. */
int main(void)
{
    memory_pool_t *pool = memory_pool_create(1 << 20, true);
    kept = malloc(1);
    void *lost = memory_pool_alloc(pool, 100);
    void *freed = memory_pool_alloc(pool, 100);
    return lost == NULL || !memory_pool_free(pool, freed);
}
