/* Every function that allocates, with what it promises about size, alignment and contents. */
#include "check.h"

static const size_t sizes[] = {1, 7, 8, 63, 64, 65, 100, 1000, 1500, 4096, 9000, 70000, 300000};
#define SIZES (sizeof sizes / sizeof *sizes)

/* All usable bytes of the block are the caller's. */
static void use(memory_pool_t *pool, void *block, size_t size, size_t alignment)
{
    CHECK(block != NULL);
    CHECK((uintptr_t)block % alignment == 0);
    CHECK(memory_pool_contains(pool, block));
    size_t usable = memory_pool_usable_size(pool, block);
    CHECK(usable >= size);
    check_fill(block, usable, (unsigned char)size);
}

static void alloc_and_free(memory_pool_t *pool)
{
    void *blocks[SIZES];
    for (size_t i = 0; i < SIZES; i++) {
        blocks[i] = memory_pool_alloc(pool, sizes[i]);
        use(pool, blocks[i], sizes[i], DEFAULT_ALIGNMENT);
    }
    CHECK(check_stats(pool).live_objects == SIZES);
    for (size_t i = 0; i < SIZES; i++) {
        CHECK(check_filled(blocks[i], sizes[i], (unsigned char)sizes[i]));
        CHECK(memory_pool_free(pool, blocks[i]));
    }
}

static void freeing_null(memory_pool_t *pool)
{
    size_t refused = check_stats(pool).refused_frees;
    CHECK(memory_pool_free(pool, NULL));
    CHECK(memory_pool_free_fixed(pool, NULL));
    CHECK(check_stats(pool).refused_frees == refused);
}

static void bad_sizes(memory_pool_t *pool)
{
    CHECK_FAILS(memory_pool_alloc(pool, 0), POOL_ERROR_INVALID_SIZE);
    CHECK_FAILS(memory_pool_alloc_aligned(pool, 0, 64), POOL_ERROR_INVALID_SIZE);
    CHECK_FAILS(memory_pool_alloc(pool, SIZE_MAX), POOL_ERROR_INVALID_SIZE);
    CHECK_FAILS(memory_pool_alloc(pool, SIZE_MAX - 63), POOL_ERROR_INVALID_SIZE);
    CHECK_FAILS(memory_pool_alloc_aligned(pool, SIZE_MAX, 64), POOL_ERROR_INVALID_SIZE);
    CHECK_FAILS(memory_pool_alloc(pool, 2 * MIB), POOL_ERROR_TOO_LARGE);
    CHECK_FAILS(memory_pool_alloc_aligned(pool, 2 * MIB, 64), POOL_ERROR_TOO_LARGE);
    CHECK_FAILS(memory_pool_alloc(NULL, 64), POOL_ERROR_NULL_POINTER);
    CHECK_FAILS(memory_pool_alloc_aligned(NULL, 64, 64), POOL_ERROR_NULL_POINTER);
}

static void aligned(memory_pool_t *pool)
{
    for (size_t alignment = 1; alignment <= 64 * KIB; alignment *= 2) {
        void *blocks[8];
        for (size_t i = 0; i < 8; i++) {
            size_t size = 1 + 100 * i;
            blocks[i] = memory_pool_alloc_aligned(pool, size, alignment);
            use(pool, blocks[i], size, alignment);
        }
        CHECK(memory_pool_validate(pool));
        for (size_t i = 0; i < 8; i++) {
            CHECK(memory_pool_free(pool, blocks[i]));
        }
    }
}

static void bad_alignments(memory_pool_t *pool)
{
    const size_t bad[] = {0, 3, 48, 65, SIZE_MAX, SIZE_MAX / 2};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_FAILS(memory_pool_alloc_aligned(pool, 64, bad[i]), POOL_ERROR_INVALID_ALIGNMENT);
    }
    CHECK(memory_pool_alloc_aligned(pool, 64, SIZE_MAX / 2 + 1) == NULL);
    CHECK(memory_pool_alloc_aligned(pool, SIZE_MAX / 2, SIZE_MAX / 2 + 1) == NULL);
}

static void zeroed(memory_pool_t *pool)
{
    for (int round = 0; round < 4; round++) {
        for (size_t i = 0; i < SIZES; i++) {
            unsigned char *block = memory_pool_calloc(pool, sizes[i], 2);
            CHECK(block != NULL);
            CHECK(check_all(block, 2 * sizes[i], 0));
            use(pool, block, 2 * sizes[i], DEFAULT_ALIGNMENT);
            CHECK(memory_pool_free(pool, block));
        }
    }
}

static void zeroed_overflow(memory_pool_t *pool)
{
    const size_t root = (size_t)1 << (sizeof(size_t) * 4);
    CHECK_FAILS(memory_pool_calloc(pool, SIZE_MAX, 2), POOL_ERROR_INVALID_SIZE);
    CHECK_FAILS(memory_pool_calloc(pool, 2, SIZE_MAX), POOL_ERROR_INVALID_SIZE);
    CHECK_FAILS(memory_pool_calloc(pool, SIZE_MAX / 2 + 1, 2), POOL_ERROR_INVALID_SIZE);
    CHECK_FAILS(memory_pool_calloc(pool, root, root), POOL_ERROR_INVALID_SIZE);
    CHECK_FAILS(memory_pool_calloc(pool, root + 1, root), POOL_ERROR_INVALID_SIZE);
    CHECK_FAILS(memory_pool_calloc(pool, 0, 8), POOL_ERROR_INVALID_SIZE);
    CHECK_FAILS(memory_pool_calloc(pool, 8, 0), POOL_ERROR_INVALID_SIZE);
    CHECK_FAILS(memory_pool_calloc(pool, 0, 0), POOL_ERROR_INVALID_SIZE);
    CHECK_FAILS(memory_pool_calloc(pool, 2, MIB), POOL_ERROR_TOO_LARGE);
    CHECK_FAILS(memory_pool_calloc(NULL, 8, 8), POOL_ERROR_NULL_POINTER);
}

static void fixed(memory_pool_t *pool)
{
    CHECK_FAILS(memory_pool_alloc_fixed(NULL, 64), POOL_ERROR_NULL_POINTER);
    if (check_stats(pool).num_size_classes == 0) {
        CHECK_FAILS(memory_pool_alloc_fixed(pool, 64), POOL_ERROR_UNKNOWN_CLASS);
        return;
    }
    CHECK_FAILS(memory_pool_alloc_fixed(pool, 0), POOL_ERROR_INVALID_SIZE);
    CHECK_FAILS(memory_pool_alloc_fixed(pool, 900 * KIB), POOL_ERROR_UNKNOWN_CLASS);
    for (size_t size = 1; size <= 900; size += 31) {
        void *slot = memory_pool_alloc_fixed(pool, size);
        use(pool, slot, size, DEFAULT_ALIGNMENT);
        CHECK(memory_pool_free_fixed(pool, slot));
        slot = memory_pool_alloc_fixed(pool, size);
        CHECK(memory_pool_free(pool, slot));
    }
}

static void usable_sizes(memory_pool_t *pool)
{
    int on_the_stack = 0;
    CHECK_FAILS(memory_pool_usable_size(NULL, &on_the_stack), POOL_ERROR_NULL_POINTER);
    CHECK_FAILS(memory_pool_usable_size(pool, &on_the_stack), POOL_ERROR_FOREIGN_POINTER);
    CHECK(memory_pool_usable_size(pool, NULL) == 0);
    void *block = memory_pool_alloc(pool, 100);
    CHECK(memory_pool_usable_size(pool, block) >= 100);
    CHECK(memory_pool_usable_size(pool, (char *)block + 1) == 0);
    CHECK(memory_pool_free(pool, block));
    CHECK(memory_pool_usable_size(pool, block) == 0);
}

/* A block of one function is freed by that of another, and blocks stay apart. */
static void mixed(memory_pool_t *pool)
{
    enum { BLOCKS = 200 };
    unsigned char *blocks[BLOCKS] = {NULL};
    size_t lengths[BLOCKS] = {0};
    uint32_t random = 1;
    const unsigned rounds = check_rounds(20000);
    for (unsigned round = 0; round < rounds; round++) {
        uint32_t i = check_random(&random, BLOCKS);
        if (blocks[i] != NULL) {
            CHECK(check_filled(blocks[i], lengths[i], (unsigned char)i));
            CHECK(memory_pool_free(pool, blocks[i]));
        }
        lengths[i] = 1 + check_random(&random, 2000);
        switch (check_random(&random, 3)) {
        case 0:
            blocks[i] = memory_pool_alloc(pool, lengths[i]);
            break;
        case 1:
            blocks[i] = memory_pool_alloc_aligned(pool, lengths[i], 256);
            break;
        default:
            blocks[i] = memory_pool_calloc(pool, 1, lengths[i]);
            break;
        }
        CHECK(blocks[i] != NULL);
        check_fill(blocks[i], lengths[i], (unsigned char)i);
    }
    CHECK(memory_pool_validate(pool));
    for (int i = 0; i < BLOCKS; i++) {
        CHECK(memory_pool_free(pool, blocks[i]));
    }
}

/* Everything is free afterwards, and pointers from before are dead. */
static void reset(memory_pool_t *pool)
{
    void *first = memory_pool_alloc(pool, 100);
    CHECK(first != NULL);
    while (memory_pool_alloc(pool, 1000) != NULL) {
    }
    CHECK(memory_pool_reset(pool));
    CHECK(check_stats(pool).live_objects == 0);
    CHECK(check_stats(pool).cached_objects == 0);
    CHECK(!memory_pool_free(pool, first));
    CHECK(memory_pool_validate(pool));
    void *again = memory_pool_alloc(pool, 100);
    use(pool, again, 100, DEFAULT_ALIGNMENT);
    CHECK(memory_pool_free(pool, again));
    CHECK_FAILS(memory_pool_reset(NULL), POOL_ERROR_NULL_POINTER);
}

int main(void)
{
    RUN_ON_EACH_POOL(alloc_and_free);
    RUN_ON_EACH_POOL(freeing_null);
    RUN_ON_EACH_POOL(bad_sizes);
    RUN_ON_EACH_POOL(aligned);
    RUN_ON_EACH_POOL(bad_alignments);
    RUN_ON_EACH_POOL(zeroed);
    RUN_ON_EACH_POOL(zeroed_overflow);
    RUN_ON_EACH_POOL(fixed);
    RUN_ON_EACH_POOL(usable_sizes);
    RUN_ON_EACH_POOL(mixed);
    RUN_ON_EACH_POOL(reset);
    return 0;
}
