/*
 * libmempool_preload.so - runs a program that knows nothing of it on a memory pool:
 *
 *     LD_PRELOAD=./libmempool_preload.so program
 *
 * All memory that the program has from malloc and its relatives comes from one pool over a large
 * range of addresses, for which the system finds memory when it is touched. In the environment:
 *
 *     MEMPOOL_PRELOAD_SIZE     bytes of the range, with K, M or G; else twice the memory, up to 64G
 *     MEMPOOL_PRELOAD_REPORT   set: misuse is reported on stderr, the first of each kind
 *     MEMPOOL_PRELOAD_STATS    a file to which each process adds a line of figures at its end
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdlib.h>
#include <unistd.h>

#include "memory_pool.h"

#define EXPORT __attribute__((visibility("default")))

/* ---- Settings and figures ------------------------------------------------------------------ */

#define LARGEST_SIZE ((size_t)64 << 30)
#define SMALLEST_SIZE ((size_t)16 << 20)

/* Copies: programs like nginx overwrite their environment. */
static char stats_file[4096];
static bool reporting;

/* What the pool refused or found damaged, by error. */
static size_t misuses[POOL_ERROR_INTERNAL + 1];

__attribute__((constructor)) static void read_settings(void)
{
    const char *file = secure_getenv("MEMPOOL_PRELOAD_STATS");
    if (file != NULL && strlen(file) < sizeof stats_file) {
        strcpy(stats_file, file);
    }
    reporting = secure_getenv("MEMPOOL_PRELOAD_REPORT") != NULL;
}

static size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* Twice the machine's memory leaves room for gaps between blocks. */
static size_t default_size(void)
{
    size_t memory = (size_t)sysconf(_SC_PHYS_PAGES) * page_size();
    return memory < LARGEST_SIZE / 2 ? 2 * memory : LARGEST_SIZE;
}

static size_t wanted_size(void)
{
    const char *text = secure_getenv("MEMPOOL_PRELOAD_SIZE");
    char *unit = "";
    size_t size = text == NULL ? 0 : strtoull(text, &unit, 10);
    size <<= *unit == 'G' ? 30 : *unit == 'M' ? 20 : *unit == 'K' ? 10 : 0;
    if (size == 0) {
        return default_size();
    }
    return size < SMALLEST_SIZE ? SMALLEST_SIZE : size;
}

/* One write per line, so that lines of several processes do not mix; errno is kept. */
static void write_line(int file, const char *line, int length)
{
    int saved = errno;
    if (length > 0 && write(file, line, (size_t)length) < 0) {
        /* Nobody to tell. */
    }
    errno = saved;
}

static void count_misuse(memory_pool_t *pool, pool_error_t error, const void *address, void *unused)
{
    (void)pool;
    (void)unused;
    size_t earlier = __atomic_fetch_add(&misuses[error], 1, __ATOMIC_RELAXED);
    if (reporting && earlier == 0) {
        char line[256];
        int length = snprintf(line, sizeof line, "libmempool_preload[%d]: %s: %p\n", (int)getpid(),
                              memory_pool_error_string(error), address);
        write_line(STDERR_FILENO, line, length);
    }
}

/* ---- The pool ------------------------------------------------------------------------------ */

static memory_pool_t *shared_pool;

/* Half the size as long as the system refuses: limits of the process, or no overcommitting. */
static memory_pool_t *make_pool(void)
{
    pool_config_t config = {
        .thread_safe = true,
        .alignment = 16,
        .enable_size_classes = true,
        .pages = POOL_PAGES_SMALL | POOL_PAGES_OVERCOMMIT,
    };
    for (size_t size = wanted_size(); size >= SMALLEST_SIZE; size /= 2) {
        config.pool_size = size;
        memory_pool_t *pool = memory_pool_create_with_config(&config);
        if (pool != NULL) {
            memory_pool_set_corruption_handler(pool, count_misuse, NULL);
            return pool;
        }
    }
    return NULL;
}

/*
 * The first call may come from the loader, before any constructor and in the middle of anything.
 * Nothing is waited for: of several threads that make a pool at once, one has its pool used. A call
 * that comes from within is refused.
 */
static memory_pool_t *first_pool(void)
{
    static __thread bool making;
    if (making) {
        return NULL;
    }
    making = true;
    memory_pool_t *mine = make_pool();
    making = false;

    memory_pool_t *theirs = NULL;
    if (__atomic_compare_exchange_n(&shared_pool, &theirs, mine, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE)) {
        return mine;
    }
    memory_pool_destroy(mine);
    return theirs;
}

/* NULL if there is no memory for a pool: all calls on it fail then. */
static inline memory_pool_t *the_pool(void)
{
    memory_pool_t *pool = __atomic_load_n(&shared_pool, __ATOMIC_ACQUIRE);
    return __builtin_expect(pool != NULL, 1) ? pool : first_pool();
}

__attribute__((destructor)) static void write_stats(void)
{
    pool_stats_t stats;
    int file = -1;
    if (stats_file[0] != '\0' && memory_pool_get_stats(shared_pool, &stats)) {
        file = open(stats_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    }
    if (file < 0) {
        return;
    }
    size_t foreign = misuses[POOL_ERROR_FOREIGN_POINTER];
    char line[512];
    int length = snprintf(line, sizeof line,
                          "program=%.64s pid=%d peak_bytes=%zu live_objects=%zu failures=%zu "
                          "refused=%zu foreign=%zu\n",
                          program_invocation_short_name, (int)getpid(), stats.peak_bytes,
                          stats.live_objects, stats.failures, stats.refused_frees - foreign,
                          foreign);
    write_line(file, line, length);
    close(file);
}

/* ---- malloc and its relatives -------------------------------------------------------------- */

static inline void *or_enomem(void *block)
{
    if (__builtin_expect(block == NULL, 0)) {
        errno = ENOMEM;
    }
    return block;
}

/* The pool has no blocks of zero bytes; malloc has, each at an address of its own. */
static inline size_t at_least_one(size_t size)
{
    return size + (size == 0);
}

static inline bool is_power_of_two(size_t number)
{
    return number != 0 && (number & (number - 1)) == 0;
}

EXPORT void *malloc(size_t size)
{
    return or_enomem(memory_pool_alloc(the_pool(), at_least_one(size)));
}

/* What the pool refuses is counted; most often it is the loader's, from before there was a pool. */
EXPORT void free(void *block)
{
    int saved = errno;
    memory_pool_free(the_pool(), block);
    errno = saved;
}

EXPORT void *calloc(size_t count, size_t size)
{
    if (count == 0 || size == 0) {
        count = size = 1;
    }
    return or_enomem(memory_pool_calloc(the_pool(), count, size));
}

/* As glibc has it, a new size of zero frees the block. */
EXPORT void *realloc(void *block, size_t size)
{
    if (block == NULL) {
        return malloc(size);
    }
    if (size == 0) {
        free(block);
        return NULL;
    }
    return or_enomem(memory_pool_realloc(the_pool(), block, size));
}

EXPORT void *reallocarray(void *block, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        return or_enomem(NULL);
    }
    return realloc(block, bytes);
}

EXPORT void *memalign(size_t alignment, size_t size)
{
    if (!is_power_of_two(alignment)) {
        errno = EINVAL;
        return NULL;
    }
    return or_enomem(memory_pool_alloc_aligned(the_pool(), at_least_one(size), alignment));
}

EXPORT void *aligned_alloc(size_t alignment, size_t size)
{
    return memalign(alignment, size);
}

/* The one that returns its error, and leaves errno alone. */
EXPORT int posix_memalign(void **block, size_t alignment, size_t size)
{
    if (!is_power_of_two(alignment) || alignment < sizeof(void *)) {
        return EINVAL;
    }
    void *aligned = memory_pool_alloc_aligned(the_pool(), at_least_one(size), alignment);
    if (aligned == NULL) {
        return ENOMEM;
    }
    *block = aligned;
    return 0;
}

EXPORT void *valloc(size_t size)
{
    return memalign(page_size(), size);
}

EXPORT void *pvalloc(size_t size)
{
    size_t page = page_size();
    size_t bytes;
    if (__builtin_add_overflow(at_least_one(size), page - 1, &bytes)) {
        return or_enomem(NULL);
    }
    return memalign(page, bytes & ~(page - 1));
}

EXPORT size_t malloc_usable_size(void *block)
{
    return block == NULL ? 0 : memory_pool_usable_size(the_pool(), block);
}
