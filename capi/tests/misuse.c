/* Every path that frees refuses what is not a live block, and changes nothing. */
#include "check.h"

/* The local cache and class that some paths need. */
static memory_pool_local_t *local;
static int class_id;

typedef bool (*free_path)(memory_pool_t *pool, void *ptr);

static bool by_local(memory_pool_t *pool, void *ptr)
{
    (void)pool;
    return memory_pool_local_free(local, ptr);
}

static bool by_local_fixed(memory_pool_t *pool, void *ptr)
{
    (void)pool;
    return memory_pool_local_free_fixed(local, class_id, ptr);
}

static bool by_local_bulk(memory_pool_t *pool, void *ptr)
{
    (void)pool;
    return memory_pool_local_free_bulk(local, class_id, &ptr, 1) == 1;
}

static bool by_realloc(memory_pool_t *pool, void *ptr)
{
    check_set_another_error(POOL_OK);
    memory_pool_realloc(pool, ptr, 0);
    return memory_pool_get_last_error() == POOL_ERROR_NULL_POINTER;
}

static const free_path slot_paths[] = {memory_pool_free, memory_pool_free_fixed, by_local,
                                       by_local_fixed,   by_local_bulk,          by_realloc};
static const free_path block_paths[] = {memory_pool_free, by_local, by_realloc};
#define SLOT_PATHS (sizeof slot_paths / sizeof *slot_paths)
#define BLOCK_PATHS (sizeof block_paths / sizeof *block_paths)

/* The pointer is refused for this reason, is counted, and changes nothing else. */
static void refused(memory_pool_t *pool, free_path free_by, void *ptr, pool_error_t error)
{
    pool_stats_t before = check_stats(pool);
    CHECK_FAILS(free_by(pool, ptr), error);
    pool_stats_t after = check_stats(pool);
    CHECK(after.refused_frees == before.refused_frees + 1);
    CHECK(after.live_objects == before.live_objects);
    CHECK(after.live_bytes == before.live_bytes);
    CHECK(after.free_bytes == before.free_bytes);
    CHECK(memory_pool_validate(pool));
}

static void foreign(memory_pool_t *pool, free_path free_by)
{
    static char in_the_program[64];
    char on_the_stack[64] = {0};
    void *from_malloc = malloc(64);
    refused(pool, free_by, in_the_program, POOL_ERROR_FOREIGN_POINTER);
    refused(pool, free_by, on_the_stack, POOL_ERROR_FOREIGN_POINTER);
    refused(pool, free_by, from_malloc, POOL_ERROR_FOREIGN_POINTER);
    refused(pool, free_by, (void *)(uintptr_t)1, POOL_ERROR_FOREIGN_POINTER);
    refused(pool, free_by, (void *)UINTPTR_MAX, POOL_ERROR_FOREIGN_POINTER);
    free(from_malloc);
}

static void interior(memory_pool_t *pool, free_path free_by, char *block, size_t size)
{
    for (size_t offset = 1; offset < size; offset = offset * 2 + (offset % 3 == 0)) {
        refused(pool, free_by, block + offset, POOL_ERROR_NOT_A_BLOCK);
    }
}

/* One slot, all paths: what is not it is refused by each, and freed twice by none. */
static void slots(memory_pool_t *pool)
{
    for (size_t i = 0; i < SLOT_PATHS; i++) {
        char *slot = memory_pool_alloc_fixed(pool, 1024);
        char *neighbour = memory_pool_alloc_fixed(pool, 1024);
        CHECK(slot != NULL && neighbour != NULL);
        foreign(pool, slot_paths[i]);
        interior(pool, slot_paths[i], slot, 1024);
        CHECK(slot_paths[i](pool, slot));
        for (size_t again = 0; again < SLOT_PATHS; again++) {
            refused(pool, slot_paths[again], slot, POOL_ERROR_DOUBLE_FREE);
        }
        interior(pool, slot_paths[i], slot, 1024);
        CHECK(slot_paths[i](pool, neighbour));
    }
}

static void heap_blocks(memory_pool_t *pool)
{
    for (size_t i = 0; i < BLOCK_PATHS; i++) {
        char *below = memory_pool_alloc(pool, 40000);
        char *block = memory_pool_alloc(pool, 40000);
        char *above = memory_pool_alloc(pool, 40000);
        CHECK(below != NULL && block != NULL && above != NULL);
        foreign(pool, block_paths[i]);
        interior(pool, block_paths[i], block, 40000);
        refused(pool, memory_pool_free_fixed, block, POOL_ERROR_WRONG_CLASS);
        refused(pool, by_local_fixed, block, POOL_ERROR_WRONG_CLASS);
        refused(pool, by_local_bulk, block, POOL_ERROR_WRONG_CLASS);
        CHECK(block_paths[i](pool, block));
        for (size_t again = 0; again < BLOCK_PATHS; again++) {
            refused(pool, block_paths[again], block, POOL_ERROR_DOUBLE_FREE);
        }
        interior(pool, block_paths[i], block, 40000);
        CHECK(block_paths[i](pool, below));
        refused(pool, block_paths[i], block, POOL_ERROR_DOUBLE_FREE);
        CHECK(block_paths[i](pool, above));
        refused(pool, block_paths[i], block, POOL_ERROR_DOUBLE_FREE);
        refused(pool, block_paths[i], above, POOL_ERROR_DOUBLE_FREE);
    }
}

static void wrong_class(memory_pool_t *pool)
{
    void *other = memory_pool_alloc_fixed(pool, 64);
    CHECK(other != NULL);
    refused(pool, by_local_fixed, other, POOL_ERROR_WRONG_CLASS);
    refused(pool, by_local_bulk, other, POOL_ERROR_WRONG_CLASS);
    CHECK(memory_pool_free_fixed(pool, other));
}

static void unknown_class(memory_pool_t *pool)
{
    void *slot = memory_pool_alloc_fixed(pool, 1024);
    const int unknown[] = {-1, -POOL_ERROR_UNKNOWN_CLASS, 127, 128, 255, 256, 65536, 0x7FFFFFFF,
                           -0x7FFFFFFF - 1};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        CHECK(!memory_pool_local_free_fixed(local, unknown[i], slot));
        CHECK(memory_pool_local_free_bulk(local, unknown[i], &slot, 1) == 0);
        CHECK_FAILS(memory_pool_local_alloc_fixed(local, unknown[i]), POOL_ERROR_UNKNOWN_CLASS);
        CHECK_FAILS(memory_pool_local_alloc_bulk(local, unknown[i], &slot, 1),
                    POOL_ERROR_UNKNOWN_CLASS);
        CHECK(memory_pool_usable_size(pool, slot) >= 1024);
    }
    CHECK(memory_pool_free(pool, slot));
}

/* The pool's handle and tables lie in its memory, and are no blocks. */
static void the_pools_own(memory_pool_t *pool)
{
    pool_stats_t before = check_stats(pool);
    CHECK(!memory_pool_free(pool, pool));
    for (size_t offset = 8; offset < 16 * KIB; offset += 8) {
        CHECK(!memory_pool_free(pool, (char *)pool + offset));
    }
    CHECK(!memory_pool_free(pool, local));
    CHECK(!memory_pool_local_free(local, local));
    CHECK(check_stats(pool).live_objects == before.live_objects);
    CHECK(memory_pool_validate(pool));
}

/* A misused pool serves as before. */
static void still_serves(memory_pool_t *pool)
{
    void *block = memory_pool_alloc(pool, 100000);
    void *slot = memory_pool_local_alloc_fixed(local, class_id);
    CHECK(block != NULL && slot != NULL);
    CHECK(memory_pool_free(pool, block));
    CHECK(memory_pool_free(pool, slot));
}

static void misuse(bool thread_safe)
{
    memory_pool_t *pool = memory_pool_create(2 * MIB, thread_safe);
    CHECK(pool != NULL);
    local = memory_pool_local_create(pool);
    CHECK(local != NULL);
    class_id = memory_pool_class_of(pool, 1024);
    CHECK(class_id >= 0);
    slots(pool);
    wrong_class(pool);
    unknown_class(pool);
    heap_blocks(pool);
    the_pools_own(pool);
    still_serves(pool);
    memory_pool_local_destroy(local);
    CHECK(memory_pool_validate(pool));
    CHECK(check_stats(pool).live_objects == 0);
    memory_pool_destroy(pool);
}

static void one_thread(void)
{
    misuse(false);
}

static void thread_safe(void)
{
    misuse(true);
}

/* Frees that state a size: to the byte with canaries, else one that can be. */
static void sizes_that_are_stated(void)
{
    const size_t sizes[] = {1, 64, 100, 1000, 1500, 5000, 100000};
    for (int kind = 0; kind < 8; kind++) {
        bool exact = kind & 4;
        memory_pool_t *pool = check_pool_with(exact ? POOL_HARDENED : 0, kind & 1, kind & 2);
        CHECK(memory_pool_free_sized(pool, NULL, 1));
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            void *block = memory_pool_alloc(pool, sizes[i]);
            size_t usable = memory_pool_usable_size(pool, block);
            size_t before = check_stats(pool).refused_frees;
            CHECK_FAILS(memory_pool_free_sized(pool, block, usable + 1), POOL_ERROR_WRONG_SIZE);
            CHECK_FAILS(memory_pool_free_sized(pool, block, 2 * usable), POOL_ERROR_WRONG_SIZE);
            CHECK_FAILS(memory_pool_free_sized(pool, block, SIZE_MAX), POOL_ERROR_INVALID_SIZE);
            if (exact) {
                CHECK_FAILS(memory_pool_free_sized(pool, block, sizes[i] - 1), POOL_ERROR_WRONG_SIZE);
            }
            CHECK(check_stats(pool).refused_frees == before + 2 + exact);
            CHECK(memory_pool_free_sized(pool, block, sizes[i]));
            CHECK(!memory_pool_free_sized(pool, block, sizes[i]));
            block = memory_pool_realloc(pool, memory_pool_alloc(pool, sizes[i]), 700);
            CHECK(memory_pool_free_sized(pool, block, 700));
        }
        CHECK(memory_pool_validate(pool));
        memory_pool_destroy(pool);
    }
}

int main(void)
{
    RUN(one_thread);
    RUN(thread_safe);
    RUN(sizes_that_are_stated);
    return 0;
}
