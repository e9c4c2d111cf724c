/* Looking at a pool: figures, printing, validation, what it contains; and tuning it. */
#include "check.h"

#include <unistd.h>

static void counts(memory_pool_t *pool)
{
    enum { BLOCKS = 500 };
    void *blocks[BLOCKS];
    pool_stats_t empty = check_stats(pool);
    CHECK(empty.live_objects == 0 && empty.live_bytes == 0);
    for (size_t i = 0; i < BLOCKS; i++) {
        blocks[i] = memory_pool_alloc(pool, 1 + i);
        CHECK(check_stats(pool).live_objects == i + 1);
    }
    pool_stats_t full = check_stats(pool);
    CHECK(full.live_bytes >= BLOCKS * (BLOCKS + 1) / 2);
    CHECK(full.peak_bytes >= full.live_bytes);
    size_t usable = 0;
    for (size_t i = 0; i < BLOCKS; i++) {
        usable += memory_pool_usable_size(pool, blocks[i]);
        CHECK(memory_pool_free(pool, blocks[i]));
    }
    /* Under valgrind, blocks are larger by what nobody may touch. */
    CHECK(full.live_bytes == usable || (check_is_slow() && full.live_bytes > usable));
    pool_stats_t after = check_stats(pool);
    CHECK(after.live_objects == 0 && after.live_bytes == 0);
    CHECK(after.peak_bytes >= full.live_bytes);
    CHECK(after.failures == 0 && after.refused_frees == 0);
}

static void add_up(memory_pool_t *pool)
{
    void *blocks[64];
    for (size_t i = 0; i < 64; i++) {
        blocks[i] = memory_pool_alloc(pool, 1000 + i);
    }
    for (size_t i = 0; i < 64; i += 2) {
        CHECK(memory_pool_free(pool, blocks[i]));
    }
    pool_stats_t stats = check_stats(pool);
    CHECK(stats.pool_size <= MIB && stats.pool_size > MIB / 2);
    CHECK(stats.metadata_bytes > 0);
    CHECK(stats.metadata_bytes + stats.live_bytes + stats.free_bytes <= stats.pool_size);
    CHECK(stats.largest_free <= stats.free_bytes);
    CHECK(stats.free_blocks > 0);
    CHECK(stats.slab_bytes <= stats.pool_size);
    CHECK(stats.fragmentation <= 100);
    CHECK(stats.reserved0 == 0);
    CHECK(check_all(stats.reserved, sizeof stats.reserved, 0));
    for (size_t i = 1; i < 64; i += 2) {
        CHECK(memory_pool_free(pool, blocks[i]));
    }
}

static void contains(memory_pool_t *pool)
{
    char on_the_stack = 0;
    char *block = memory_pool_alloc(pool, 100);
    CHECK(memory_pool_contains(pool, block));
    CHECK(memory_pool_contains(pool, block + 99));
    CHECK(memory_pool_free(pool, block));
    CHECK(memory_pool_contains(pool, block));
    CHECK(!memory_pool_contains(pool, &on_the_stack));
    CHECK(!memory_pool_contains(pool, NULL));
    CHECK(!memory_pool_contains(pool, (void *)UINTPTR_MAX));
    CHECK(!memory_pool_contains(pool, (char *)pool + 2 * MIB));
}

/* What print_stats() wrote to standard output, which a file stands in for. */
static size_t printed(memory_pool_t *pool, char *text, size_t size)
{
    FILE *file = tmpfile();
    CHECK(file != NULL);
    fflush(stdout);
    int terminal = dup(STDOUT_FILENO);
    CHECK(dup2(fileno(file), STDOUT_FILENO) >= 0);
    bool ok = memory_pool_print_stats(pool);
    fflush(stdout);
    CHECK(dup2(terminal, STDOUT_FILENO) >= 0);
    close(terminal);
    rewind(file);
    size_t length = fread(text, 1, size - 1, file);
    text[length] = '\0';
    fclose(file);
    CHECK(ok);
    return length;
}

static void prints(memory_pool_t *pool)
{
    static char text[64 * 1024];
    void *block = memory_pool_alloc(pool, 1000);
    size_t length = printed(pool, text, sizeof text);
    CHECK(length > 0 && text[length - 1] == '\n');
    CHECK(strlen(text) == length);
    CHECK(memory_pool_free(pool, block));
}

static void warmup(memory_pool_t *pool)
{
    void *block = memory_pool_alloc(pool, 1000);
    check_fill(block, 1000, 1);
    CHECK(memory_pool_warmup(pool));
    CHECK(check_filled(block, 1000, 1));
    CHECK(memory_pool_free(pool, block));
}

static void defragment(memory_pool_t *pool)
{
    void *blocks[500];
    for (int i = 0; i < 500; i++) {
        blocks[i] = memory_pool_alloc(pool, 500);
    }
    for (int i = 0; i < 500; i++) {
        CHECK(memory_pool_free(pool, blocks[i]));
    }
    size_t before = check_stats(pool).free_bytes;
    size_t returned = memory_pool_defragment(pool);
    pool_stats_t after = check_stats(pool);
    CHECK(after.cached_objects == 0);
    CHECK(after.free_bytes >= before && (after.free_bytes == before) == (returned == 0));
    check_set_another_error(POOL_OK);
    CHECK(memory_pool_defragment(pool) == 0);
    CHECK(memory_pool_get_last_error() == POOL_ERROR_NULL_POINTER);
}

static void flush(memory_pool_t *pool)
{
    void *block = memory_pool_alloc(pool, 64);
    CHECK(memory_pool_free(pool, block));
    CHECK(memory_pool_flush_thread(pool));
    CHECK(memory_pool_flush_thread(pool));
    CHECK(memory_pool_validate(pool));
}

int main(void)
{
    RUN_ON_EACH_POOL(counts);
    RUN_ON_EACH_POOL(add_up);
    RUN_ON_EACH_POOL(contains);
    RUN_ON_EACH_POOL(prints);
    RUN_ON_EACH_POOL(warmup);
    RUN_ON_EACH_POOL(defragment);
    RUN_ON_EACH_POOL(flush);
    return 0;
}
