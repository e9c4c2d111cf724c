/* Size classes that a program adds: ids, reserves, and which class serves which size. */
#include "check.h"

enum { RESERVE = 100 };

static void ids(memory_pool_t *pool)
{
    int known = (int)check_stats(pool).num_size_classes;
    CHECK(memory_pool_add_size_class(pool, 1504, 10) == known);
    CHECK(memory_pool_add_size_class(pool, 9000, 1) == known + 1);
    CHECK(check_stats(pool).num_size_classes == (size_t)known + 2);
    CHECK(memory_pool_class_of(pool, 1504) == known);
    void *slot = memory_pool_alloc_fixed(pool, 1504);
    CHECK(slot != NULL && memory_pool_usable_size(pool, slot) >= 1504);
    CHECK(memory_pool_free_fixed(pool, slot));
}

static void room_for_sixteen(memory_pool_t *pool)
{
    for (size_t i = 1; i <= MAX_SIZE_CLASSES; i++) {
        CHECK(memory_pool_add_size_class(pool, 100 * i, 1) >= 0);
    }
}

/* Slots that are set aside are there when all else is taken. */
static void reserves(memory_pool_t *pool)
{
    CHECK(memory_pool_add_size_class(pool, 1536, RESERVE) >= 0);
    int id = memory_pool_class_of(pool, 1536);
    while (memory_pool_alloc(pool, 8000) != NULL) {
    }
    while (memory_pool_alloc(pool, 64) != NULL) {
    }
    memory_pool_local_t *local = memory_pool_local_create(pool);
    void *slots[RESERVE];
    if (local != NULL) {
        CHECK(memory_pool_local_alloc_bulk(local, id, slots, RESERVE) == RESERVE);
        CHECK(memory_pool_local_free_bulk(local, id, slots, RESERVE) == RESERVE);
        memory_pool_local_destroy(local);
    }
    for (int i = 0; i < RESERVE; i++) {
        slots[i] = memory_pool_alloc_fixed(pool, 1536);
        CHECK(slots[i] != NULL);
    }
    for (int i = 0; i < RESERVE; i++) {
        CHECK(memory_pool_free_fixed(pool, slots[i]));
    }
    CHECK(memory_pool_reset(pool));
}

static void serve_smaller_sizes(memory_pool_t *pool)
{
    if (check_stats(pool).num_size_classes > 0) {
        return;
    }
    CHECK_FAILS(memory_pool_alloc_fixed(pool, 100), POOL_ERROR_UNKNOWN_CLASS);
    CHECK(memory_pool_add_size_class(pool, 256, 10) == 0);
    for (size_t size = 1; size <= 256; size++) {
        CHECK(memory_pool_class_of(pool, size) == 0);
        void *slot = memory_pool_alloc_fixed(pool, size);
        CHECK(slot != NULL);
        CHECK(memory_pool_free_fixed(pool, slot));
    }
    CHECK_NEGATIVE(memory_pool_class_of(pool, 256 + DEFAULT_ALIGNMENT), POOL_ERROR_UNKNOWN_CLASS);
    CHECK_FAILS(memory_pool_alloc_fixed(pool, 256 + DEFAULT_ALIGNMENT), POOL_ERROR_UNKNOWN_CLASS);
}

static void refused_classes_leave_no_trace(memory_pool_t *pool)
{
    pool_stats_t before = check_stats(pool);
    CHECK_NEGATIVE(memory_pool_add_size_class(pool, 2048, 100000), POOL_ERROR_RESERVE_TOO_LARGE);
    CHECK_NEGATIVE(memory_pool_add_size_class(pool, 2 * MIB, 1), POOL_ERROR_INVALID_CLASS_SIZE);
    pool_stats_t after = check_stats(pool);
    CHECK(after.num_size_classes == before.num_size_classes);
    CHECK(after.live_bytes == before.live_bytes);
    CHECK(memory_pool_validate(pool));
}

static void survive_a_reset(memory_pool_t *pool)
{
    int id = memory_pool_add_size_class(pool, 1536, 10);
    CHECK(id >= 0);
    CHECK(memory_pool_alloc_fixed(pool, 1536) != NULL);
    CHECK(memory_pool_reset(pool));
    CHECK(memory_pool_class_of(pool, 1536) == id);
    void *slot = memory_pool_alloc_fixed(pool, 1536);
    CHECK(slot != NULL);
    CHECK(memory_pool_free_fixed(pool, slot));
}

/* A mix of packet sizes gets the classes that fit it. */
static void advice_fits_a_mix(void)
{
    const size_t mix[] = {40, 576, 40, 40, 576, 40, 1514, 40, 576, 40, 40, 576};
    for (int thread_safe = 0; thread_safe < 2; thread_safe++) {
        pool_config_t config;
        memset(&config, 0, sizeof config);
        config.pool_size = MIB;
        config.thread_safe = thread_safe;
        config.alignment = 16;
        config.flags = POOL_PROFILE;
        memory_pool_t *pool = memory_pool_create_with_config(&config);
        CHECK(pool != NULL);
        pool_advice_t advice[8];
        CHECK(memory_pool_advise(pool, advice, 8) == 0);
        CHECK(memory_pool_advise(pool, NULL, 0) == 0);
        CHECK_NEGATIVE(memory_pool_advise(pool, NULL, 1), POOL_ERROR_NULL_POINTER);
        for (int turn = 0; turn < 1200; turn++) {
            CHECK(memory_pool_free(pool, memory_pool_alloc(pool, mix[turn % 12])));
        }
        CHECK(memory_pool_advise(pool, advice, 8) == 3);
        const size_t sizes[] = {48, 576, 1520}, requests[] = {700, 400, 100};
        double shares = 0;
        for (int i = 0; i < 3; i++) {
            CHECK(advice[i].size == sizes[i] && advice[i].requests == requests[i]);
            CHECK(advice[i].bytes <= sizes[i] * requests[i]);
            CHECK(advice[i].saved >= 0);
            shares += advice[i].request_share;
        }
        CHECK(shares > 0.999 && shares < 1.001 && advice[1].byte_share > 0.5);
        CHECK(memory_pool_advise(pool, advice, 1) == 1);
        memory_pool_destroy(pool);
    }
    memory_pool_t *pool = check_pool(true, false);
    pool_advice_t none;
    CHECK_NEGATIVE(memory_pool_advise(pool, &none, 1), POOL_ERROR_INVALID_CONFIG);
    memory_pool_destroy(pool);
}

static pool_class_config_t class_of_size(size_t size)
{
    pool_class_config_t config;
    memset(&config, 0, sizeof config);
    config.size = size;
    return config;
}

/* A limit is met, by whatever call, and is no failure; a free makes room. */
static void limits(memory_pool_t *pool)
{
    pool_class_config_t config = class_of_size(1536);
    config.reserve = 4;
    config.limit = 16;
    config.dedicated = true;
    int id = memory_pool_add_size_class_with(pool, &config);
    CHECK(id >= 0);
    size_t failures = check_stats(pool).failures;
    memory_pool_local_t *local = memory_pool_local_create(pool);
    void *slots[17];
    CHECK(memory_pool_local_alloc_bulk(local, id, slots, 16) == 16);
    CHECK_FAILS(memory_pool_local_alloc_fixed(local, id), POOL_ERROR_CLASS_LIMIT);
    CHECK_FAILS(memory_pool_local_alloc_bulk(local, id, slots + 16, 1), POOL_ERROR_CLASS_LIMIT);
    CHECK(check_stats(pool).limit_hits == 2 && check_stats(pool).failures == failures);
    /* It is dedicated: requests by size go elsewhere. */
    CHECK(memory_pool_class_of(pool, 1536) != id);
    void *block = memory_pool_alloc(pool, 1536);
    CHECK(block != NULL && memory_pool_free(pool, block));
    CHECK(memory_pool_local_free_fixed(local, id, slots[0]));
    slots[0] = memory_pool_local_alloc_fixed(local, id);
    CHECK(slots[0] != NULL);
    CHECK(memory_pool_local_free_bulk(local, id, slots, 16) == 16);
    memory_pool_local_destroy(local);
    CHECK(memory_pool_reset(pool));
    CHECK(check_stats(pool).limit_hits == 0);
}

static void limits_by_size(memory_pool_t *pool)
{
    pool_class_config_t config = class_of_size(2000);
    config.limit = 3;
    CHECK(memory_pool_add_size_class_with(pool, &config) >= 0);
    void *slots[3];
    for (int i = 0; i < 3; i++) {
        slots[i] = memory_pool_alloc_fixed(pool, 2000);
        CHECK(slots[i] != NULL);
    }
    CHECK_FAILS(memory_pool_alloc_fixed(pool, 2000), POOL_ERROR_CLASS_LIMIT);
    for (int i = 0; i < 3; i++) {
        CHECK(memory_pool_free_fixed(pool, slots[i]));
    }
}

static struct {
    int calls;
    int class_id;
    size_t left;
    memory_pool_t *pool;
    void *user_data;
} low;

static void on_low(memory_pool_t *pool, int class_id, size_t left, void *user_data)
{
    low.user_data = user_data;
    /* No lock is held, and no cache half-way through a call. */
    CHECK(memory_pool_free(pool, memory_pool_alloc(pool, 100)));
    CHECK(memory_pool_validate(pool));
    low.calls++;
    low.class_id = class_id;
    low.left = left;
    low.pool = pool;
}

/* The function is called once each time that the slots left fall below the watermark. */
static void watermarks(void)
{
    for (int thread_safe = 0; thread_safe < 2; thread_safe++) {
        pool_config_t pool_config;
        memset(&pool_config, 0, sizeof pool_config);
        pool_config.pool_size = MIB;
        pool_config.thread_safe = thread_safe;
        pool_config.magazine_slots = 1;
        memory_pool_t *pool = memory_pool_create_with_config(&pool_config);
        pool_class_config_t config = class_of_size(512);
        config.reserve = config.limit = 64;
        config.low_watermark = 20;
        config.on_low = on_low;
        config.user_data = &low;
        int classes[2];
        for (int i = 0; i < 2; i++) {
            classes[i] = memory_pool_add_size_class_with(pool, &config);
            CHECK(classes[i] >= 0);
        }
        for (int turn = 0; turn < 6; turn++) {
            int id = classes[turn % 2];
            memset(&low, 0, sizeof low);
            memory_pool_local_t *local = memory_pool_local_create(pool);
            void *slots[64];
            CHECK(memory_pool_local_alloc_bulk(local, id, slots, 40) == 40);
            CHECK(low.calls == 0);
            CHECK(memory_pool_local_alloc_bulk(local, id, slots + 40, 22) == 22);
            CHECK(low.calls == 1 && low.class_id == id && low.pool == pool);
            CHECK(low.user_data == &low);
            CHECK(low.left < 20 && low.left > 10);
            CHECK(memory_pool_local_free_bulk(local, id, slots, 62) == 62);
            memory_pool_local_destroy(local);
            CHECK(low.calls == 1);
        }
        memory_pool_destroy(pool);
    }
}

static void class_configurations(memory_pool_t *pool)
{
    size_t known = check_stats(pool).num_size_classes;
    size_t tables = check_stats(pool).metadata_bytes;
    pool_class_config_t config = class_of_size(0);
    CHECK_NEGATIVE(memory_pool_add_size_class_with(pool, &config), POOL_ERROR_INVALID_CLASS_SIZE);
    config = class_of_size(64);
    config.reserve = 5;
    config.limit = 4;
    CHECK_NEGATIVE(memory_pool_add_size_class_with(pool, &config), POOL_ERROR_INVALID_CONFIG);
    config = class_of_size(64);
    config.low_watermark = 1;
    CHECK_NEGATIVE(memory_pool_add_size_class_with(pool, &config), POOL_ERROR_INVALID_CONFIG);
    config = class_of_size(64);
    config.on_low = on_low;
    CHECK_NEGATIVE(memory_pool_add_size_class_with(pool, &config), POOL_ERROR_INVALID_CONFIG);
    for (int i = 0; i < 4; i++) {
        config = class_of_size(64);
        config.reserved[i] = 1;
        CHECK_NEGATIVE(memory_pool_add_size_class_with(pool, &config), POOL_ERROR_INVALID_CONFIG);
    }
    config = class_of_size(4096);
    config.reserve = 10000;
    config.low_watermark = 1;
    config.on_low = on_low;
    CHECK_NEGATIVE(memory_pool_add_size_class_with(pool, &config), POOL_ERROR_RESERVE_TOO_LARGE);
    CHECK(check_stats(pool).num_size_classes == known);
    CHECK(check_stats(pool).metadata_bytes == tables);
    config = class_of_size(2048);
    config.coloured = true;
    CHECK(memory_pool_add_size_class_with(pool, &config) == (int)known);
}

int main(void)
{
    RUN_ON_EACH_POOL(ids);
    RUN_ON_EACH_POOL(room_for_sixteen);
    RUN_ON_EACH_POOL(reserves);
    RUN_ON_EACH_POOL(serve_smaller_sizes);
    RUN_ON_EACH_POOL(refused_classes_leave_no_trace);
    RUN_ON_EACH_POOL(survive_a_reset);
    RUN(advice_fits_a_mix);
    RUN_ON_EACH_POOL(limits);
    RUN_ON_EACH_POOL(limits_by_size);
    RUN_ON_EACH_POOL(class_configurations);
    RUN(watermarks);
    return 0;
}
