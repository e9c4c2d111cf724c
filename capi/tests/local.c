/* Local caches: single slots, bulk, and what they refuse. */
#include "check.h"

enum { SLOT = 512, BURST = 64 };

static memory_pool_local_t *local;
static int class_id;

/* A pool whose one class has slots of 512 bytes, and a local cache of it. */
static memory_pool_t *open_pool(void)
{
    memory_pool_t *pool = check_pool(false, true);
    class_id = memory_pool_add_size_class(pool, SLOT, BURST);
    CHECK(class_id == 0);
    local = memory_pool_local_create(pool);
    CHECK(local != NULL);
    return pool;
}

static void close_pool(memory_pool_t *pool)
{
    CHECK(memory_pool_validate(pool));
    memory_pool_local_destroy(local);
    CHECK(check_stats(pool).live_objects == 0);
    CHECK(memory_pool_validate(pool));
    memory_pool_destroy(pool);
}

static void single_slots(void)
{
    memory_pool_t *pool = open_pool();
    for (int i = 0; i < 1000; i++) {
        void *slot = memory_pool_local_alloc_fixed(local, class_id);
        CHECK(slot != NULL);
        check_fill(slot, SLOT, 1);
        CHECK(memory_pool_local_free_fixed(local, class_id, slot));
        void *block = memory_pool_local_alloc(local, 1 + (size_t)i * 10);
        CHECK(block != NULL);
        check_fill(block, 1 + (size_t)i * 10, 2);
        CHECK(memory_pool_local_free(local, block));
    }
    close_pool(pool);
}

static void any_way_back(void)
{
    memory_pool_t *pool = open_pool();
    memory_pool_local_t *other = memory_pool_local_create(pool);
    for (int i = 0; i < 300; i++) {
        CHECK(memory_pool_free(pool, memory_pool_local_alloc_fixed(local, class_id)));
        CHECK(memory_pool_free_fixed(pool, memory_pool_local_alloc(local, SLOT)));
        CHECK(memory_pool_local_free(local, memory_pool_alloc(pool, SLOT)));
        CHECK(memory_pool_local_free_fixed(other, class_id,
                                           memory_pool_local_alloc_fixed(local, class_id)));
    }
    memory_pool_local_destroy(other);
    close_pool(pool);
}

static void null_arguments(void)
{
    memory_pool_t *pool = open_pool();
    void *slot = memory_pool_local_alloc_fixed(local, class_id);
    CHECK_FAILS(memory_pool_local_alloc(NULL, SLOT), POOL_ERROR_NULL_POINTER);
    CHECK_FAILS(memory_pool_local_alloc_fixed(NULL, class_id), POOL_ERROR_NULL_POINTER);
    CHECK_FAILS(memory_pool_local_free(NULL, slot), POOL_ERROR_NULL_POINTER);
    CHECK_FAILS(memory_pool_local_free_fixed(NULL, class_id, slot), POOL_ERROR_NULL_POINTER);
    CHECK_FAILS(memory_pool_local_alloc_bulk(NULL, class_id, &slot, 1), POOL_ERROR_NULL_POINTER);
    CHECK_FAILS(memory_pool_local_free_bulk(NULL, class_id, &slot, 1), POOL_ERROR_NULL_POINTER);
    CHECK_FAILS(memory_pool_local_alloc_bulk(local, class_id, NULL, 1), POOL_ERROR_NULL_POINTER);
    CHECK_FAILS(memory_pool_local_free_bulk(local, class_id, NULL, 1), POOL_ERROR_NULL_POINTER);
    CHECK_FAILS(memory_pool_local_alloc(local, 0), POOL_ERROR_INVALID_SIZE);
    CHECK(memory_pool_local_free(local, NULL));
    memory_pool_local_destroy(NULL);
    CHECK(memory_pool_local_free(local, slot));
    close_pool(pool);
}

static void invalid_handles(void)
{
    memory_pool_t *pool = open_pool();
    void *slot = memory_pool_local_alloc_fixed(local, class_id);
    memory_pool_local_t *ended = memory_pool_local_create(pool);
    memory_pool_local_destroy(ended);
    static uint64_t zeros[64] = {0};
    memory_pool_local_t *bad[] = {ended, (memory_pool_local_t *)(void *)zeros,
                                  (memory_pool_local_t *)(void *)((char *)zeros + 1)};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        memory_pool_local_t *handle = bad[i];
        CHECK_FAILS(memory_pool_local_alloc(handle, SLOT), POOL_ERROR_INVALID_HANDLE);
        CHECK_FAILS(memory_pool_local_alloc_fixed(handle, class_id), POOL_ERROR_INVALID_HANDLE);
        CHECK_FAILS(memory_pool_local_free(handle, slot), POOL_ERROR_INVALID_HANDLE);
        CHECK_FAILS(memory_pool_local_free_fixed(handle, class_id, slot),
                    POOL_ERROR_INVALID_HANDLE);
        CHECK_FAILS(memory_pool_local_alloc_bulk(handle, class_id, &slot, 1),
                    POOL_ERROR_INVALID_HANDLE);
        CHECK_FAILS(memory_pool_local_free_bulk(handle, class_id, &slot, 1),
                    POOL_ERROR_INVALID_HANDLE);
        memory_pool_local_destroy(handle);
    }
    CHECK(memory_pool_local_free(local, slot));
    close_pool(pool);
}

static void bulk(void)
{
    memory_pool_t *pool = open_pool();
    void *slots[500];
    for (size_t n = 1; n <= 500; n = n * 3 / 2 + 1) {
        CHECK(memory_pool_local_alloc_bulk(local, class_id, slots, n) == n);
        CHECK(check_stats(pool).live_objects == n);
        for (size_t i = 0; i < n; i++) {
            check_fill(slots[i], SLOT, (unsigned char)i);
        }
        for (size_t i = 0; i < n; i++) {
            CHECK(check_filled(slots[i], SLOT, (unsigned char)i));
        }
        CHECK(memory_pool_local_free_bulk(local, class_id, slots, n) == n);
        CHECK(check_stats(pool).live_objects == 0);
    }
    close_pool(pool);
}

static void bulk_of_none(void)
{
    memory_pool_t *pool = open_pool();
    void *slot = NULL;
    check_set_another_error(POOL_OK);
    CHECK(memory_pool_local_alloc_bulk(local, class_id, &slot, 0) == 0);
    CHECK(memory_pool_local_free_bulk(local, class_id, &slot, 0) == 0);
    CHECK(memory_pool_get_last_error() == POOL_ERROR_NULL_POINTER);
    close_pool(pool);
}

static void bulk_is_all_or_nothing(void)
{
    memory_pool_t *pool = open_pool();
    static void *slots[4096];
    size_t fits = 0;
    while ((slots[fits] = memory_pool_local_alloc_fixed(local, class_id)) != NULL) {
        fits++;
    }
    CHECK(check_was_short());
    CHECK(memory_pool_local_free_bulk(local, class_id, slots, fits) == fits);
    /* Slabs and magazines lie elsewhere each time: a few more or fewer fit. */
    size_t some = fits - fits / 50;
    for (size_t too_many = fits + fits / 50; too_many < 2 * fits; too_many += 333) {
        CHECK(memory_pool_local_alloc_bulk(local, class_id, slots, too_many) == 0);
        CHECK(check_was_short());
        CHECK(check_stats(pool).live_objects == 0);
        CHECK(memory_pool_local_alloc_bulk(local, class_id, slots, some) == some);
        CHECK(memory_pool_local_free_bulk(local, class_id, slots, some) == some);
    }
    close_pool(pool);
}

/* More pointers than an array can hold. */
static void bulk_of_too_many(void)
{
    memory_pool_t *pool = open_pool();
    void *slots[BURST];
    CHECK(memory_pool_local_alloc_bulk(local, class_id, slots, BURST) == BURST);
    const size_t too_many[] = {SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / 8 + 1, SIZE_MAX / 8};
    for (size_t i = 0; i < sizeof too_many / sizeof *too_many; i++) {
        CHECK_FAILS(memory_pool_local_alloc_bulk(local, class_id, slots, too_many[i]),
                    POOL_ERROR_INVALID_SIZE);
        CHECK_FAILS(memory_pool_local_free_bulk(local, class_id, slots, too_many[i]),
                    POOL_ERROR_INVALID_SIZE);
        CHECK(check_stats(pool).live_objects == BURST);
    }
    CHECK(memory_pool_local_free_bulk(local, class_id, slots, BURST) == BURST);
    close_pool(pool);
}

/* A pointer that is refused ends a bulk free; those behind it are as they were. */
static void bulk_free_stops(void)
{
    memory_pool_t *pool = open_pool();
    void *slots[BURST];
    for (size_t bad = 0; bad < BURST; bad += 9) {
        CHECK(memory_pool_local_alloc_bulk(local, class_id, slots, BURST) == BURST);
        void *good = slots[bad];
        slots[bad] = (char *)good + 8;
        check_set_another_error(POOL_OK);
        CHECK(memory_pool_local_free_bulk(local, class_id, slots, BURST) == bad);
        CHECK(memory_pool_get_last_error() == POOL_ERROR_NOT_A_BLOCK);
        CHECK(check_stats(pool).live_objects == BURST - bad);
        slots[bad] = good;
        CHECK(memory_pool_local_free_bulk(local, class_id, slots + bad, BURST - bad) ==
              BURST - bad);
    }
    close_pool(pool);
}

static void bulk_free_of_one_twice(void)
{
    memory_pool_t *pool = open_pool();
    void *slots[BURST];
    CHECK(memory_pool_local_alloc_bulk(local, class_id, slots, BURST) == BURST);
    void *last = slots[BURST - 1];
    slots[BURST - 1] = slots[3];
    CHECK(memory_pool_local_free_bulk(local, class_id, slots, BURST) == BURST - 1);
    CHECK(memory_pool_get_last_error() == POOL_ERROR_DOUBLE_FREE);
    CHECK(memory_pool_local_free_fixed(local, class_id, last));
    slots[0] = NULL;
    CHECK(memory_pool_local_free_bulk(local, class_id, slots, 1) <= 1);
    close_pool(pool);
}

static void of_another_pool(void)
{
    memory_pool_t *pool = open_pool();
    memory_pool_t *other = check_pool(true, true);
    void *slot = memory_pool_alloc(other, SLOT);
    CHECK_FAILS(memory_pool_local_free(local, slot), POOL_ERROR_FOREIGN_POINTER);
    CHECK_FAILS(memory_pool_local_free_fixed(local, class_id, slot), POOL_ERROR_FOREIGN_POINTER);
    CHECK_FAILS(memory_pool_local_free_bulk(local, class_id, &slot, 1),
                POOL_ERROR_FOREIGN_POINTER);
    CHECK(memory_pool_free(other, slot));
    memory_pool_destroy(other);
    close_pool(pool);
}

static void cached_slots_are_counted_and_return(void)
{
    memory_pool_t *pool = open_pool();
    void *slots[BURST];
    size_t caches = check_stats(pool).num_caches;
    memory_pool_local_t *other = memory_pool_local_create(pool);
    CHECK(memory_pool_local_alloc_bulk(other, class_id, slots, BURST) == BURST);
    CHECK(check_stats(pool).num_caches == caches + 1);
    CHECK(memory_pool_local_free_bulk(other, class_id, slots, BURST) == BURST);
    CHECK(check_stats(pool).cached_objects > 0);
    memory_pool_local_destroy(other);
    CHECK(check_stats(pool).num_caches == caches);
    CHECK(memory_pool_reset(pool));
    CHECK(check_stats(pool).cached_objects == 0);
    close_pool(pool);
}

static void outlives_a_reset(void)
{
    memory_pool_t *pool = open_pool();
    void *slots[BURST];
    for (int round = 0; round < 10; round++) {
        CHECK(memory_pool_local_alloc_bulk(local, class_id, slots, BURST) == BURST);
        CHECK(memory_pool_local_free_bulk(local, class_id, slots, BURST / 2) == BURST / 2);
        CHECK(memory_pool_reset(pool));
        CHECK(memory_pool_local_free_bulk(local, class_id, slots, BURST) == 0);
        CHECK(memory_pool_validate(pool));
    }
    close_pool(pool);
}

static void as_many_as_fit(void)
{
    memory_pool_t *pool = open_pool();
    static memory_pool_local_t *locals[100000];
    size_t count = 0;
    while (count < 100000 && (locals[count] = memory_pool_local_create(pool)) != NULL) {
        count++;
    }
    CHECK(count > 10 && count < 100000);
    CHECK(check_was_short());
    CHECK(memory_pool_validate(pool));
    for (size_t i = 0; i < count; i++) {
        memory_pool_local_destroy(locals[i]);
    }
    void *block = memory_pool_alloc(pool, MIB / 2);
    CHECK(block != NULL);
    CHECK(memory_pool_free(pool, block));
    close_pool(pool);
}

int main(void)
{
    RUN(single_slots);
    RUN(any_way_back);
    RUN(null_arguments);
    RUN(invalid_handles);
    RUN(bulk);
    RUN(bulk_of_none);
    RUN(bulk_is_all_or_nothing);
    RUN(bulk_of_too_many);
    RUN(bulk_free_stops);
    RUN(bulk_free_of_one_twice);
    RUN(of_another_pool);
    RUN(cached_slots_are_counted_and_return);
    RUN(outlives_a_reset);
    RUN(as_many_as_fit);
    return 0;
}
