/* Pools in the caller's memory: any size, at any address, and not a byte beyond it. */
#include "check.h"

enum { MARGIN = 64, LARGEST = 64 * 1024 };

static union {
    uint64_t align;
    unsigned char bytes[MARGIN + LARGEST + 2 * MARGIN];
} memory;

static void check_margins(const unsigned char *region, size_t size)
{
    const unsigned char *end = memory.bytes + sizeof memory.bytes;
    CHECK(check_all(memory.bytes, (size_t)(region - memory.bytes), 0xA5));
    CHECK(check_all(region + size, (size_t)(end - region) - size, 0xA5));
}

/* Uses up all of the pool, and frees it again. */
static void use_up(memory_pool_t *pool, const unsigned char *region, size_t size)
{
    static unsigned char *blocks[LARGEST / 16];
    size_t count = 0;
    while ((blocks[count] = memory_pool_alloc(pool, 24)) != NULL) {
        CHECK(blocks[count] >= region && blocks[count] + 24 <= region + size);
        check_fill(blocks[count], 24, (unsigned char)count);
        count++;
    }
    CHECK(count > 0);
    CHECK(check_was_short());
    CHECK(memory_pool_validate(pool));
    for (size_t i = 0; i < count; i++) {
        CHECK(check_filled(blocks[i], 24, (unsigned char)i));
        CHECK(memory_pool_free(pool, blocks[i]));
    }
    CHECK(memory_pool_validate(pool));
    CHECK(check_stats(pool).live_objects == 0);
}

static bool create_and_use(size_t misalignment, size_t size, const pool_config_t *config)
{
    unsigned char *region = memory.bytes + MARGIN + misalignment;
    memset(memory.bytes, 0xA5, sizeof memory.bytes);
    memory_pool_t *pool = memory_pool_create_in(region, size, config);
    if (pool == NULL) {
        pool_error_t error = memory_pool_get_last_error();
        CHECK(error == POOL_ERROR_REGION_TOO_SMALL ||
              (size == 0 && error == POOL_ERROR_INVALID_SIZE));
    } else {
        use_up(pool, region, size);
        memory_pool_destroy(pool);
        CHECK_FAILS(memory_pool_alloc(pool, 24), POOL_ERROR_INVALID_HANDLE);
    }
    check_margins(region, size);
    return pool != NULL;
}

static pool_config_t small_objects(void)
{
    pool_config_t config;
    memset(&config, 0, sizeof config);
    config.alignment = 8;
    return config;
}

static void tiny(void)
{
    pool_config_t config = small_objects();
    const size_t step = check_is_slow() ? 13 : 1;
    for (size_t misalignment = 0; misalignment < 64; misalignment += step) {
        for (size_t size = 0; size <= 512; size += step) {
            create_and_use(misalignment, size, NULL);
            create_and_use(misalignment, size, &config);
        }
    }
}

static void small(void)
{
    pool_config_t config = small_objects();
    const size_t step = check_is_slow() ? 997 : 41;
    size_t smallest = 0;
    for (size_t size = 512; size <= 16 * KIB; size += step) {
        bool made = create_and_use(size % 64, size, NULL);
        made |= create_and_use(size % 61, size, &config);
        if (made && smallest == 0) {
            smallest = size;
        }
    }
    CHECK(smallest > 0 && smallest <= 8 * KIB);
}

static void all_kinds(void)
{
    for (size_t alignment = 8; alignment <= 4096; alignment *= 2) {
        for (int kind = 0; kind < 4; kind++) {
            pool_config_t config = small_objects();
            config.alignment = alignment;
            config.thread_safe = kind & 1;
            config.enable_size_classes = kind & 2;
            bool made = create_and_use(alignment % 60, LARGEST, &config);
            CHECK(made || alignment > 1024);
        }
    }
}

static void pool_size_is_ignored(void)
{
    pool_config_t config = small_objects();
    config.pool_size = SIZE_MAX;
    CHECK(create_and_use(0, LARGEST, &config));
}

static void bad_arguments(void)
{
    pool_config_t config = small_objects();
    CHECK_FAILS(memory_pool_create_in(NULL, LARGEST, &config), POOL_ERROR_NULL_POINTER);
    CHECK_FAILS(memory_pool_create_in(NULL, LARGEST, NULL), POOL_ERROR_NULL_POINTER);
    config.alignment = 24;
    CHECK_FAILS(memory_pool_create_in(memory.bytes, LARGEST, &config),
                POOL_ERROR_INVALID_ALIGNMENT);
    config.alignment = 8;
    config.flags = 1u << 20;
    CHECK_FAILS(memory_pool_create_in(memory.bytes, LARGEST, &config), POOL_ERROR_INVALID_CONFIG);
    config.flags = 0;
    config.reserved[3] = 1;
    CHECK_FAILS(memory_pool_create_in(memory.bytes, LARGEST, &config), POOL_ERROR_INVALID_CONFIG);
}

/* A region that would wrap around the end of the address space is refused, and not touched. */
static void wraps_around(void)
{
    CHECK(memory_pool_create_in(memory.bytes, SIZE_MAX, NULL) == NULL);
    CHECK(memory_pool_create_in(memory.bytes, SIZE_MAX / 2 + 1, NULL) == NULL);
}

static void one_after_the_other(void)
{
    for (unsigned round = check_rounds(200); round > 0; round--) {
        CHECK(create_and_use(round % 64, LARGEST - round, NULL));
    }
}

static void warmup_keeps_blocks(void)
{
    memory_pool_t *pool = memory_pool_create_in(memory.bytes, sizeof memory.bytes, NULL);
    void *block = memory_pool_alloc(pool, 5000);
    check_fill(block, 5000, 1);
    CHECK(memory_pool_warmup(pool));
    CHECK(check_filled(block, 5000, 1));
    CHECK(memory_pool_free(pool, block));
    CHECK(memory_pool_validate(pool));
    memory_pool_destroy(pool);
}

int main(void)
{
    RUN(tiny);
    RUN(small);
    RUN(all_kinds);
    RUN(pool_size_is_ignored);
    RUN(bad_arguments);
    RUN(wraps_around);
    RUN(one_after_the_other);
    RUN(warmup_keeps_blocks);
    return 0;
}
