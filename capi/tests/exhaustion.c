/* Memory runs out, and comes back. */
#include "check.h"

enum { BLOCKS = 20000 };
static void *blocks[BLOCKS];

/* Allocates until the pool refuses; how many there were. */
static int fill(memory_pool_t *pool, size_t size)
{
    int count = 0;
    while (count < BLOCKS && (blocks[count] = memory_pool_alloc(pool, size)) != NULL) {
        count++;
    }
    CHECK(count < BLOCKS);
    CHECK(check_was_short());
    return count;
}

static void empty(memory_pool_t *pool, int count)
{
    for (int i = 0; i < count; i++) {
        CHECK(memory_pool_free(pool, blocks[i]));
    }
}

/* Slabs lie elsewhere each time, and leave other remainders between them. */
static bool about(int count, int expected)
{
    return count >= expected - expected / 100;
}

static void as_much_each_time(memory_pool_t *pool)
{
    const size_t sizes[] = {64, 200, 1500, 5000, 50000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int first = fill(pool, sizes[i]);
        CHECK((size_t)first * sizes[i] > MIB / 3);
        empty(pool, first);
        for (unsigned round = check_rounds(20); round > 0; round--) {
            int count = fill(pool, sizes[i]);
            CHECK(about(count, first));
            CHECK(memory_pool_validate(pool));
            empty(pool, count);
        }
    }
}

static void one_back_one_more(memory_pool_t *pool)
{
    int count = fill(pool, 1000);
    for (int i = 0; i < count; i += 7) {
        CHECK(memory_pool_free(pool, blocks[i]));
        blocks[i] = memory_pool_alloc(pool, 1000);
        CHECK(blocks[i] != NULL);
        CHECK(memory_pool_alloc(pool, 1000) == NULL && check_was_short());
    }
    empty(pool, count);
}

static void failures_change_nothing(memory_pool_t *pool)
{
    int count = fill(pool, 3000);
    pool_stats_t before = check_stats(pool);
    for (int i = 0; i < 100; i++) {
        CHECK(memory_pool_alloc(pool, 100000) == NULL && check_was_short());
    }
    pool_stats_t after = check_stats(pool);
    CHECK(after.failures == before.failures + 100);
    CHECK(after.live_objects == before.live_objects);
    CHECK(after.live_bytes == before.live_bytes);
    CHECK(after.free_bytes == before.free_bytes);
    empty(pool, count);
}

/* After small blocks, the memory serves large ones, and the other way round. */
static void sizes_change(memory_pool_t *pool)
{
    int large = fill(pool, 100000);
    empty(pool, large);
    for (unsigned round = check_rounds(10); round > 0; round--) {
        empty(pool, fill(pool, 64));
        int again = fill(pool, 100000);
        CHECK(again >= large - 1);
        empty(pool, again);
    }
}

static void holes(memory_pool_t *pool)
{
    int count = fill(pool, 2000);
    for (int i = 0; i < count; i += 2) {
        CHECK(memory_pool_free(pool, blocks[i]));
    }
    CHECK(memory_pool_alloc(pool, 300000) == NULL && check_was_short());
    for (int i = 0; i < count; i += 2) {
        blocks[i] = memory_pool_alloc(pool, 2000);
        CHECK(blocks[i] != NULL);
    }
    empty(pool, count);
    void *large = memory_pool_alloc(pool, 600000);
    CHECK(large != NULL);
    CHECK(memory_pool_free(pool, large));
}

/* The last error says which kind of want it is, and the figures bear it out. */
static void the_cause_is_told(memory_pool_t *pool)
{
    CHECK_FAILS(memory_pool_alloc(pool, 2 * MIB), POOL_ERROR_TOO_LARGE);
    CHECK_FAILS(memory_pool_alloc(pool, MIB), POOL_ERROR_TOO_LARGE);
    int count = fill(pool, 20001);
    for (int i = 0; i < count; i += 2) {
        CHECK(memory_pool_free(pool, blocks[i]));
    }
    pool_stats_t stats = check_stats(pool);
    CHECK(stats.free_bytes > 300000 && stats.largest_free < 100000);
    CHECK_FAILS(memory_pool_alloc(pool, 300000), POOL_ERROR_FRAGMENTED);
    CHECK_FAILS(memory_pool_alloc(pool, 900000), POOL_ERROR_OUT_OF_MEMORY);
    for (int i = 1; i < count; i += 2) {
        CHECK(memory_pool_free(pool, blocks[i]));
    }
}

static void reserves(void)
{
    check_running = "reserves";
    memory_pool_t *pool = check_pool(false, false);
    CHECK(memory_pool_add_size_class(pool, 2048, 200) == 0);
    int count = fill(pool, 5000);
    CHECK_FAILS(memory_pool_alloc(pool, 100000), POOL_ERROR_RESERVED);
    CHECK_FAILS(memory_pool_alloc(pool, 900000), POOL_ERROR_OUT_OF_MEMORY);
    CHECK(memory_pool_alloc_fixed(pool, 2048) != NULL);
    empty(pool, count);
    memory_pool_destroy(pool);
}

int main(void)
{
    RUN_ON_EACH_POOL(as_much_each_time);
    RUN_ON_EACH_POOL(one_back_one_more);
    RUN_ON_EACH_POOL(failures_change_nothing);
    RUN_ON_EACH_POOL(sizes_change);
    RUN_ON_EACH_POOL(holes);
    RUN_ON_EACH_POOL(the_cause_is_told);
    RUN(reserves);
    return 0;
}
