#include "seed.h"

int main(void)
{
    memory_pool_t *pool = memory_pool_create(16 * 1024 * 1024, true);
    CHECK(pool != NULL);
    size_t size = 1000, new_size = 5000, alignment = 256, count = 10;
    void *old_ptr = memory_pool_alloc(pool, size);
    CHECK(old_ptr != NULL);
    memset(old_ptr, 'x', size);
#include "alloc.inc"
    CHECK(ptr != NULL);
    CHECK(aligned_ptr != NULL && (uintptr_t)aligned_ptr % alignment == 0);
    CHECK(zero_ptr != NULL);
    for (size_t i = 0; i < count * size; i++) {
        CHECK(((char *)zero_ptr)[i] == 0);
    }
    CHECK(new_ptr != NULL);
    for (size_t i = 0; i < size; i++) {
        CHECK(((char *)new_ptr)[i] == 'x');
    }
    CHECK(fixed_ptr != NULL);
    CHECK(memory_pool_free_fixed(pool, fixed_ptr));
    check_and_destroy(pool);
    return 0;
}
