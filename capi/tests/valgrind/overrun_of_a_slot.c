/* valgrind: Invalid write of size 1 */
#include "memory_pool.h"

/* Writes one byte beyond a slot. */
int main(void)
{
    memory_pool_t *pool = memory_pool_create(1 << 20, true);
    int class_id = memory_pool_add_size_class(pool, 240, 10);
    memory_pool_local_t *local = memory_pool_local_create(pool);
    void *slots[3];
    if (memory_pool_local_alloc_bulk(local, class_id, slots, 3) == 3) {
        ((char *)slots[1])[240] = 'x';
    }
    return 0;
}
