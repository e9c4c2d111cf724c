/* Making and ending pools, and every field of the configuration. */
#include "check.h"

static void check_works(memory_pool_t *pool)
{
    CHECK(pool != NULL);
    void *block = memory_pool_alloc(pool, 100);
    CHECK(block != NULL);
    check_fill(block, 100, 1);
    CHECK(memory_pool_free(pool, block));
    CHECK(memory_pool_validate(pool));
}

static pool_config_t config_of(size_t pool_size)
{
    pool_config_t config;
    memset(&config, 0, sizeof config);
    config.pool_size = pool_size;
    return config;
}

static void create_and_use(pool_config_t config)
{
    memory_pool_t *pool = memory_pool_create_with_config(&config);
    check_works(pool);
    memory_pool_destroy(pool);
}

static void refuse(pool_config_t config, pool_error_t error)
{
    CHECK_FAILS(memory_pool_create_with_config(&config), error);
}

static void sizes(void)
{
    for (size_t size = 64 * KIB; size <= 64 * MIB; size *= 4) {
        for (int thread_safe = 0; thread_safe < 2; thread_safe++) {
            memory_pool_t *pool = memory_pool_create(size, thread_safe);
            check_works(pool);
            CHECK(check_stats(pool).num_size_classes > 0);
            memory_pool_destroy(pool);
        }
    }
}

static void tiny_sizes(void)
{
    for (size_t size = 1; size < 64 * KIB; size += 1021) {
        memory_pool_t *pool = memory_pool_create(size, true);
        if (pool == NULL) {
            CHECK(memory_pool_get_last_error() == POOL_ERROR_REGION_TOO_SMALL);
            continue;
        }
        check_works(pool);
        memory_pool_destroy(pool);
    }
}

static void bad_sizes(void)
{
    CHECK_FAILS(memory_pool_create(0, false), POOL_ERROR_INVALID_SIZE);
    CHECK_FAILS(memory_pool_create(0, true), POOL_ERROR_INVALID_SIZE);
    const size_t huge[] = {SIZE_MAX, SIZE_MAX - 1, SIZE_MAX - 4095, SIZE_MAX / 2 + 1, SIZE_MAX / 2};
    for (size_t i = 0; i < sizeof huge / sizeof *huge; i++) {
        CHECK(memory_pool_create(huge[i], true) == NULL);
        pool_error_t error = memory_pool_get_last_error();
        CHECK(error == POOL_ERROR_INVALID_SIZE || error == POOL_ERROR_REGION_TOO_LARGE ||
              error == POOL_ERROR_SYSTEM);
    }
}

static void destroying_nothing(void)
{
    memory_pool_destroy(NULL);
}

static void defaults(void)
{
    memory_pool_t *pool = check_pool(false, false);
    pool_stats_t stats = check_stats(pool);
    CHECK(stats.num_size_classes == 0);
    void *block = memory_pool_alloc(pool, 1);
    CHECK((uintptr_t)block % DEFAULT_ALIGNMENT == 0);
    CHECK(memory_pool_free(pool, block));
    memory_pool_destroy(pool);
}

static void alignments(void)
{
    for (size_t alignment = 1; alignment <= 4096; alignment *= 2) {
        pool_config_t config = config_of(4 * MIB);
        config.alignment = alignment;
        config.enable_size_classes = true;
        memory_pool_t *pool = memory_pool_create_with_config(&config);
        CHECK(pool != NULL);
        for (size_t size = 1; size < 10000; size = size * 3 + 1) {
            void *block = memory_pool_alloc(pool, size);
            CHECK(block != NULL && (uintptr_t)block % alignment == 0);
        }
        CHECK(memory_pool_validate(pool));
        memory_pool_destroy(pool);
    }
}

static void bad_alignments(void)
{
    const size_t bad[] = {3, 48, 65, 4095, 8192, SIZE_MAX / 2 + 1, SIZE_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        pool_config_t config = config_of(MIB);
        config.alignment = bad[i];
        refuse(config, POOL_ERROR_INVALID_ALIGNMENT);
    }
}

static void flags(void)
{
    const uint32_t all = POOL_ZERO_ON_ALLOC | POOL_HARDENED | POOL_PROFILE;
    for (uint32_t flag = 0; flag <= all; flag++) {
        pool_config_t config = config_of(MIB);
        config.flags = flag;
        memory_pool_t *pool = memory_pool_create_with_config(&config);
        if (pool == NULL) {
            /* Freed memory cannot be all zero and poisoned. */
            CHECK(flag & POOL_POISON && flag & POOL_ZERO_ON_FREE);
            CHECK(memory_pool_get_last_error() == POOL_ERROR_INVALID_CONFIG);
        } else {
            check_works(pool);
            memory_pool_destroy(pool);
        }
    }
    for (uint32_t flag = all + 1; flag != 0; flag *= 2) {
        pool_config_t config = config_of(MIB);
        config.flags = flag;
        refuse(config, POOL_ERROR_INVALID_CONFIG);
    }
}

static void pages(void)
{
    const uint32_t usable[] = {POOL_PAGES_SMALL, POOL_PAGES_HUGE, POOL_PAGES_PREFAULT,
                               POOL_PAGES_SMALL | POOL_PAGES_PREFAULT, POOL_PAGES_OVERCOMMIT};
    for (size_t i = 0; i < sizeof usable / sizeof *usable; i++) {
        pool_config_t config = config_of(4 * MIB);
        config.pages = usable[i];
        create_and_use(config);
    }
    pool_config_t contradictory = config_of(MIB);
    contradictory.pages = POOL_PAGES_SMALL | POOL_PAGES_HUGE;
    refuse(contradictory, POOL_ERROR_INVALID_CONFIG);
    for (uint32_t page = POOL_PAGES_OVERCOMMIT * 2; page != 0; page *= 2) {
        pool_config_t config = config_of(MIB);
        config.pages = page;
        refuse(config, POOL_ERROR_INVALID_CONFIG);
    }
}

static void locked_pages(void)
{
    pool_config_t config = config_of(64 * KIB);
    config.pages = POOL_PAGES_LOCK;
    memory_pool_t *pool = memory_pool_create_with_config(&config);
    if (pool == NULL) {
        /* RLIMIT_MEMLOCK may allow less. */
        CHECK(memory_pool_get_last_error() == POOL_ERROR_SYSTEM);
        return;
    }
    check_works(pool);
    memory_pool_destroy(pool);
}

static void classes(void)
{
    const size_t class_sizes[] = {64, 256, 1024, 4096};
    pool_config_t config = config_of(MIB);
    config.enable_size_classes = true;
    config.size_class_sizes = class_sizes;
    config.num_size_classes = 4;
    memory_pool_t *pool = memory_pool_create_with_config(&config);
    check_works(pool);
    CHECK(check_stats(pool).num_size_classes == 4);
    for (int i = 0; i < 4; i++) {
        int id = memory_pool_class_of(pool, class_sizes[i]);
        CHECK(id >= 0);
        CHECK(memory_pool_class_of(pool, class_sizes[i] - 1) == id);
    }
    CHECK_NEGATIVE(memory_pool_class_of(pool, 4096 + DEFAULT_ALIGNMENT), POOL_ERROR_UNKNOWN_CLASS);
    memory_pool_destroy(pool);
}

static void many_classes(void)
{
    size_t class_sizes[MEMORY_POOL_MAX_CLASSES + 1];
    for (size_t i = 0; i <= MEMORY_POOL_MAX_CLASSES; i++) {
        class_sizes[i] = 64 * (i + 1);
    }
    pool_config_t config = config_of(16 * MIB);
    config.enable_size_classes = true;
    config.size_class_sizes = class_sizes;
    config.num_size_classes = MEMORY_POOL_MAX_CLASSES;
    memory_pool_t *pool = memory_pool_create_with_config(&config);
    check_works(pool);
    CHECK(check_stats(pool).num_size_classes == MEMORY_POOL_MAX_CLASSES);
    memory_pool_destroy(pool);

    config.num_size_classes = MEMORY_POOL_MAX_CLASSES + 1;
    refuse(config, POOL_ERROR_TOO_MANY_CLASSES);
    config.num_size_classes = SIZE_MAX;
    refuse(config, POOL_ERROR_TOO_MANY_CLASSES);
}

static void bad_class_sizes(void)
{
    const size_t bad[] = {0, SIZE_MAX, SIZE_MAX / 2, 512 * MIB};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const size_t class_sizes[] = {64, bad[i]};
        pool_config_t config = config_of(MIB);
        config.enable_size_classes = true;
        config.size_class_sizes = class_sizes;
        config.num_size_classes = 2;
        refuse(config, POOL_ERROR_INVALID_CLASS_SIZE);
    }
}

static void magazines(void)
{
    for (size_t slots = 1; slots <= 256; slots *= 2) {
        pool_config_t config = config_of(4 * MIB);
        config.thread_safe = true;
        config.enable_size_classes = true;
        config.magazine_slots = slots;
        memory_pool_t *pool = memory_pool_create_with_config(&config);
        if (pool == NULL) {
            CHECK(slots > 128);
            CHECK(memory_pool_get_last_error() == POOL_ERROR_INVALID_CONFIG);
            continue;
        }
        check_works(pool);
        memory_pool_destroy(pool);
    }
}

static void bad_magazines(void)
{
    const size_t bad[] = {SIZE_MAX, SIZE_MAX / 2 + 1, (size_t)1 << 32, 1 << 20, 65536};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        pool_config_t config = config_of(4 * MIB);
        config.thread_safe = true;
        config.enable_size_classes = true;
        config.magazine_slots = bad[i];
        memory_pool_t *pool = memory_pool_create_with_config(&config);
        if (pool == NULL) {
            CHECK(memory_pool_get_last_error() == POOL_ERROR_INVALID_CONFIG);
        } else {
            check_works(pool);
            memory_pool_destroy(pool);
        }
    }
}

/* Lists of sizes that are empty, missing, unsorted, and repeat themselves. */
static void odd_lists_of_classes(void)
{
    const size_t class_sizes[] = {1024, 64, 64, 4096, 65};
    pool_config_t config = config_of(MIB);
    config.enable_size_classes = true;
    config.size_class_sizes = class_sizes;
    create_and_use(config);
    config.num_size_classes = 5;
    memory_pool_t *pool = memory_pool_create_with_config(&config);
    check_works(pool);
    CHECK(memory_pool_class_of(pool, 900) == 0);
    CHECK(memory_pool_class_of(pool, 4096) == 3);
    memory_pool_destroy(pool);
    config.size_class_sizes = NULL;
    refuse(config, POOL_ERROR_NULL_POINTER);
}

static void keys(void)
{
    pool_config_t config = config_of(MIB);
    config.key = UINT64_MAX;
    create_and_use(config);
}

static void reserved_fields(void)
{
    for (int i = 0; i < 4; i++) {
        pool_config_t config = config_of(MIB);
        config.reserved[i] = 1;
        refuse(config, POOL_ERROR_INVALID_CONFIG);
    }
}

static void no_config(void)
{
    CHECK_FAILS(memory_pool_create_with_config(NULL), POOL_ERROR_NULL_POINTER);
    refuse(config_of(0), POOL_ERROR_INVALID_SIZE);
}

static size_t mapped_pages(void)
{
    FILE *statm = fopen("/proc/self/statm", "r");
    size_t pages_mapped = 0;
    CHECK(statm != NULL && fscanf(statm, "%zu", &pages_mapped) == 1);
    fclose(statm);
    return pages_mapped;
}

/* Pools that end, and pools that never were, leave nothing mapped. */
static void nothing_stays_mapped(void)
{
    size_t before = 0;
    for (unsigned round = 0; round < 200; round++) {
        pool_config_t config = config_of(4 * MIB);
        config.thread_safe = round % 2;
        create_and_use(config);
        config.alignment = 3;
        refuse(config, POOL_ERROR_INVALID_ALIGNMENT);
        if (round == 10) {
            before = mapped_pages();
        }
    }
    CHECK(mapped_pages() < before + 4 * MIB / 4096);
}

static void many_at_once(void)
{
    memory_pool_t *pools[64];
    for (int i = 0; i < 64; i++) {
        pools[i] = memory_pool_create(256 * KIB, i % 2);
        check_works(pools[i]);
    }
    void *block = memory_pool_alloc(pools[0], 64);
    for (int i = 1; i < 64; i++) {
        CHECK(!memory_pool_contains(pools[i], block));
        CHECK_FAILS(memory_pool_free(pools[i], block), POOL_ERROR_FOREIGN_POINTER);
    }
    for (int i = 0; i < 64; i++) {
        memory_pool_destroy(pools[i * 37 % 64]);
    }
}

static void version(void)
{
    CHECK(memory_pool_version() == MEMORY_POOL_VERSION);
}

int main(void)
{
    RUN(version);
    RUN(sizes);
    RUN(tiny_sizes);
    RUN(bad_sizes);
    RUN(destroying_nothing);
    RUN(defaults);
    RUN(alignments);
    RUN(bad_alignments);
    RUN(flags);
    RUN(pages);
    RUN(locked_pages);
    RUN(classes);
    RUN(many_classes);
    RUN(bad_class_sizes);
    RUN(magazines);
    RUN(bad_magazines);
    RUN(odd_lists_of_classes);
    RUN(keys);
    RUN(reserved_fields);
    RUN(no_config);
    RUN(nothing_stays_mapped);
    RUN(many_at_once);
    return 0;
}
