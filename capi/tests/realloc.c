/* memory_pool_realloc(): contents, in-place growth, failure, and misuse. */
#include "check.h"

static void from_null(memory_pool_t *pool)
{
    void *block = memory_pool_realloc(pool, NULL, 100);
    CHECK(block != NULL);
    check_fill(block, 100, 3);
    CHECK(memory_pool_free(pool, block));
}

static void to_zero(memory_pool_t *pool)
{
    void *block = memory_pool_alloc(pool, 100);
    check_set_another_error(POOL_OK);
    CHECK(memory_pool_realloc(pool, block, 0) == NULL);
    CHECK(memory_pool_get_last_error() == POOL_ERROR_NULL_POINTER);
    CHECK(check_stats(pool).live_objects == 0);
    CHECK_FAILS(memory_pool_free(pool, block), POOL_ERROR_DOUBLE_FREE);
}

static void contents(memory_pool_t *pool)
{
    const size_t sizes[] = {1, 100, 64, 5000, 5001, 70, 200000, 300000, 3, 1500, 1};
    void *block = memory_pool_alloc(pool, sizes[0]);
    check_fill(block, sizes[0], 9);
    for (size_t i = 1; i < sizeof sizes / sizeof *sizes; i++) {
        size_t kept = sizes[i] < sizes[i - 1] ? sizes[i] : sizes[i - 1];
        block = memory_pool_realloc(pool, block, sizes[i]);
        CHECK(block != NULL);
        CHECK((uintptr_t)block % DEFAULT_ALIGNMENT == 0);
        CHECK(memory_pool_usable_size(pool, block) >= sizes[i]);
        CHECK(check_filled(block, kept, 9));
        check_fill(block, sizes[i], 9);
        CHECK(check_stats(pool).live_objects == 1);
    }
    CHECK(memory_pool_free(pool, block));
}

static void failing(memory_pool_t *pool)
{
    void *block = memory_pool_alloc(pool, 5000);
    check_fill(block, 5000, 5);
    CHECK_FAILS(memory_pool_realloc(pool, block, 2 * MIB), POOL_ERROR_TOO_LARGE);
    CHECK_FAILS(memory_pool_realloc(pool, block, SIZE_MAX), POOL_ERROR_INVALID_SIZE);
    CHECK_FAILS(memory_pool_realloc(pool, NULL, SIZE_MAX), POOL_ERROR_INVALID_SIZE);
    CHECK_FAILS(memory_pool_realloc(NULL, block, 100), POOL_ERROR_NULL_POINTER);
    CHECK_FAILS(memory_pool_realloc(NULL, NULL, 100), POOL_ERROR_NULL_POINTER);
    CHECK(check_filled(block, 5000, 5));
    CHECK(check_stats(pool).live_objects == 1);
    CHECK(memory_pool_free(pool, block));
}

static void misuse(memory_pool_t *pool)
{
    char on_the_stack[64] = {0};
    char *block = memory_pool_alloc(pool, 1000);
    const size_t new_sizes[] = {1, 1000, 5000, 2 * MIB};
    for (size_t i = 0; i < sizeof new_sizes / sizeof *new_sizes; i++) {
        size_t size = new_sizes[i];
        size_t refused = check_stats(pool).refused_frees;
        CHECK_FAILS(memory_pool_realloc(pool, on_the_stack, size), POOL_ERROR_FOREIGN_POINTER);
        CHECK_FAILS(memory_pool_realloc(pool, block + 1, size), POOL_ERROR_NOT_A_BLOCK);
        CHECK_FAILS(memory_pool_realloc(pool, block + 64, size), POOL_ERROR_NOT_A_BLOCK);
        CHECK(check_stats(pool).refused_frees == refused + 3);
    }
    CHECK_FAILS(memory_pool_realloc(pool, on_the_stack, 0), POOL_ERROR_FOREIGN_POINTER);
    CHECK(memory_pool_free(pool, block));
    CHECK_FAILS(memory_pool_realloc(pool, block, 100), POOL_ERROR_DOUBLE_FREE);
    CHECK_FAILS(memory_pool_realloc(pool, block, 0), POOL_ERROR_DOUBLE_FREE);
    CHECK(memory_pool_validate(pool));
}

/* Many blocks that grow and shrink keep what is theirs. */
static void many(memory_pool_t *pool)
{
    enum { BLOCKS = 64 };
    void *blocks[BLOCKS] = {NULL};
    size_t sizes[BLOCKS] = {0};
    uint32_t random = 7;
    const unsigned rounds = check_rounds(20000);
    for (unsigned round = 0; round < rounds; round++) {
        uint32_t i = check_random(&random, BLOCKS);
        size_t size = 1 + check_random(&random, check_random(&random, 8) == 0 ? 20000 : 1500);
        void *moved = memory_pool_realloc(pool, blocks[i], size);
        if (moved == NULL) {
            CHECK(check_was_short());
            CHECK(blocks[i] == NULL || check_filled(blocks[i], sizes[i], (unsigned char)i));
            continue;
        }
        CHECK(check_filled(moved, size < sizes[i] ? size : sizes[i], (unsigned char)i));
        check_fill(moved, size, (unsigned char)i);
        blocks[i] = moved;
        sizes[i] = size;
    }
    CHECK(memory_pool_validate(pool));
    for (int i = 0; i < BLOCKS; i++) {
        CHECK(memory_pool_free(pool, blocks[i]));
    }
}

int main(void)
{
    RUN_ON_EACH_POOL(from_null);
    RUN_ON_EACH_POOL(to_zero);
    RUN_ON_EACH_POOL(contents);
    RUN_ON_EACH_POOL(failing);
    RUN_ON_EACH_POOL(misuse);
    RUN_ON_EACH_POOL(many);
    return 0;
}
