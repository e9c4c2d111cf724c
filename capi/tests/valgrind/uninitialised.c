/* valgrind: Conditional jump or move depends on uninitialised value */
#include "memory_pool.h"

/* Decides by contents that nobody wrote. */
int main(void)
{
    memory_pool_t *pool = memory_pool_create(1 << 20, true);
    const volatile char *block = memory_pool_alloc(pool, 100);
    if (block[7] == 'x') {
        puts("by chance");
    }
    return 0;
}
