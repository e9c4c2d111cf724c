/* What flags do. It reads memory after its free, and beyond blocks. */
#include "check.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static const size_t sizes[] = {64, 100, 1500, 5000, 100000};
#define SIZES (sizeof sizes / sizeof *sizes)

static void zero_on_alloc(void)
{
    for (int classes = 0; classes < 2; classes++) {
        memory_pool_t *pool = check_pool_with(POOL_ZERO_ON_ALLOC, classes, classes);
        for (size_t i = 0; i < 4 * SIZES; i++) {
            size_t size = sizes[i % SIZES];
            void *block = memory_pool_alloc(pool, size);
            CHECK(check_all(block, size, 0));
            memset(block, 0xAA, size);
            CHECK(memory_pool_free(pool, block));
        }
        memory_pool_destroy(pool);
    }
}

/* The free heap keeps its links and a footer within the block. */
static void contents_after_free(uint32_t flags, unsigned char value)
{
    for (int classes = 0; classes < 2; classes++) {
        memory_pool_t *pool = check_pool_with(flags, classes, classes);
        for (size_t i = 0; i < SIZES; i++) {
            unsigned char *block = memory_pool_alloc(pool, sizes[i]);
            void *above = memory_pool_alloc(pool, sizes[i]);
            memset(block, 0xAA, sizes[i]);
            CHECK(memory_pool_free(pool, block));
            CHECK(check_all(block + 16, sizes[i] - 32, value));
            CHECK(memory_pool_free(pool, above));
        }
        CHECK(memory_pool_validate(pool));
        memory_pool_destroy(pool);
    }
}

static void zero_on_free(void)
{
    contents_after_free(POOL_ZERO_ON_FREE, 0);
}

static void poison(void)
{
    contents_after_free(POOL_POISON, 0xDF);
    contents_after_free(POOL_POISON | POOL_ZERO_ON_ALLOC, 0xDF);
}

/* Blocks end where they were asked to; a write past that is refused, and leaves the block where it is. */
static void canary(void)
{
    for (int kind = 0; kind < 4; kind++) {
        memory_pool_t *pool = check_pool_with(POOL_CANARY, kind & 1, kind & 2);
        for (size_t i = 0; i < SIZES; i++) {
            char *block = memory_pool_alloc(pool, sizes[i]);
            CHECK(memory_pool_usable_size(pool, block) == sizes[i]);
            memset(block, 'x', sizes[i]);
            char was = block[sizes[i]];
            block[sizes[i]] = 0;
            CHECK_FAILS(memory_pool_free(pool, block), POOL_ERROR_OVERRUN);
            CHECK_FAILS(memory_pool_realloc(pool, block, 2 * sizes[i]), POOL_ERROR_OVERRUN);
            CHECK(!memory_pool_validate(pool));
            block[sizes[i]] = was;
            CHECK(memory_pool_validate(pool));
            CHECK(memory_pool_free(pool, block));
        }
        memory_pool_destroy(pool);
    }
}

/* A block that was written to after its free is not handed out again. */
static void hardened(void)
{
    for (int kind = 0; kind < 4; kind++) {
        memory_pool_t *pool = check_pool_with(POOL_HARDENED, kind & 1, kind & 2);
        char *block = memory_pool_alloc(pool, 100);
        void *above = memory_pool_alloc(pool, 100);
        CHECK(memory_pool_free(pool, block));
        block[50] ^= 1;
        void *other;
        size_t others = 0;
        while ((other = memory_pool_alloc(pool, 100)) != NULL) {
            CHECK(other != block);
            others++;
        }
        CHECK(others > 100);
        pool_stats_t stats;
        CHECK(memory_pool_get_stats(pool, &stats));
        CHECK(stats.damaged_blocks == 1);
        CHECK(memory_pool_validate(pool));
        CHECK(memory_pool_free(pool, above));
        memory_pool_destroy(pool);
    }
}

/* A freed block is not handed out again at once, and a second free meets it and nobody else's. */
static void quarantine(void)
{
    for (int kind = 0; kind < 4; kind++) {
        memory_pool_t *pool = check_pool_with(POOL_QUARANTINE, kind & 1, kind & 2);
        char *block = memory_pool_alloc(pool, 100);
        CHECK(memory_pool_free(pool, block));
        for (int i = 0; i < 4; i++) {
            CHECK(memory_pool_alloc(pool, 100) != block);
            CHECK_FAILS(memory_pool_free(pool, block), POOL_ERROR_DOUBLE_FREE);
        }
        pool_stats_t stats;
        CHECK(memory_pool_get_stats(pool, &stats));
        CHECK(stats.quarantined_objects == 1 && stats.quarantined_bytes >= 100);
        memory_pool_defragment(pool);
        CHECK(memory_pool_validate(pool));
        memory_pool_destroy(pool);
    }
}

/* How a child ends that writes to a byte. */
static int signal_of_write(char *at)
{
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        *(volatile char *)at = 1;
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

/* A large block ends at a page that raises SIGSEGV, where the pool has pages. */
static void guard(void)
{
    for (int kind = 0; kind < 4; kind++) {
        memory_pool_t *pool = check_pool_with(POOL_GUARD, kind & 1, kind & 2);
        size_t size = 128 << 10;
        char *block = memory_pool_alloc(pool, size);
        memset(block, 'x', size);
        CHECK(signal_of_write(block + size - 1) == 0);
        CHECK(signal_of_write(block + size) == SIGSEGV);
        pool_stats_t stats;
        CHECK(memory_pool_get_stats(pool, &stats));
        CHECK(stats.guard_bytes > 0 && stats.guard_failures == 0);
        CHECK(memory_pool_validate(pool));
        CHECK(memory_pool_free(pool, block));
        CHECK(memory_pool_get_stats(pool, &stats));
        CHECK(stats.guard_bytes == 0);
        memory_pool_destroy(pool);
    }
}

int main(void)
{
    RUN(zero_on_alloc);
    RUN(zero_on_free);
    RUN(poison);
    RUN(canary);
    RUN(hardened);
    RUN(quarantine);
    RUN(guard);
    return 0;
}
