/* Every error code that a call can reach, its text, and when the last error changes. */
#include "check.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* POOL_ERROR_CORRUPTED is reached in corruption.c, which writes where it must not, POOL_ERROR_CLASS_LIMIT
   in classes.c, and POOL_ERROR_INTERNAL is a mistake of the library. */

static void texts(void)
{
    for (int error = POOL_OK; error <= POOL_ERROR_WRONG_SIZE; error++) {
        const char *text = memory_pool_error_string((pool_error_t)error);
        CHECK(text != NULL && text[0] != '\0');
        for (int other = POOL_OK; other < error; other++) {
            CHECK(strcmp(text, memory_pool_error_string((pool_error_t)other)) != 0);
        }
    }
}

static void texts_of_other_numbers(void)
{
    const int numbers[] = {-1, -20, 1000, 0x7FFFFFFF, -0x7FFFFFFF};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const char *text = memory_pool_error_string((pool_error_t)numbers[i]);
        CHECK(text != NULL && text[0] != '\0');
    }
}

static void first_error(void)
{
    CHECK(memory_pool_get_last_error() == POOL_OK);
}

/* Every call on a handle refuses one that is not a pool. */
static void refuses_handle(memory_pool_t *pool, pool_error_t error)
{
    pool_stats_t stats;
    pool_damage_t damage;
    pool_advice_t advice;
    pool_class_config_t class_config;
    memset(&class_config, 0, sizeof class_config);
    CHECK_FAILS(memory_pool_reset(pool), error);
    CHECK_FAILS(memory_pool_alloc(pool, 64), error);
    CHECK_FAILS(memory_pool_alloc_aligned(pool, 64, 64), error);
    CHECK_FAILS(memory_pool_calloc(pool, 1, 64), error);
    CHECK_FAILS(memory_pool_realloc(pool, NULL, 64), error);
    CHECK_FAILS(memory_pool_realloc(pool, &stats, 64), error);
    CHECK_FAILS(memory_pool_alloc_fixed(pool, 64), error);
    CHECK_FAILS(memory_pool_usable_size(pool, &stats), error);
    CHECK_FAILS(memory_pool_free(pool, &stats), error);
    CHECK_FAILS(memory_pool_free_sized(pool, &stats, 1), error);
    CHECK_FAILS(memory_pool_free_fixed(pool, &stats), error);
    CHECK_FAILS(memory_pool_warmup(pool), error);
    CHECK_FAILS(memory_pool_defragment(pool), error);
    CHECK_FAILS(memory_pool_flush_thread(pool), error);
    CHECK_NEGATIVE(memory_pool_add_size_class(pool, 64, 1), error);
    CHECK_NEGATIVE(memory_pool_add_size_class_with(pool, &class_config), error);
    CHECK_NEGATIVE(memory_pool_class_of(pool, 64), error);
    CHECK_NEGATIVE(memory_pool_advise(pool, &advice, 1), error);
    CHECK_FAILS(memory_pool_get_stats(pool, &stats), error);
    CHECK_FAILS(memory_pool_print_stats(pool), error);
    CHECK_FAILS(memory_pool_validate(pool), error);
    CHECK_FAILS(memory_pool_find_damage(pool, &damage), error);
    CHECK_FAILS(memory_pool_contains(pool, &stats), error);
    CHECK_FAILS(memory_pool_set_corruption_handler(pool, NULL, NULL), error);
    CHECK_FAILS(memory_pool_local_create(pool), error);
    memory_pool_destroy(pool);
}

static void null_pointers(void)
{
    memory_pool_t *pool = check_pool(true, true);
    CHECK_FAILS(memory_pool_free(NULL, NULL), POOL_ERROR_NULL_POINTER);
    CHECK_FAILS(memory_pool_get_stats(pool, NULL), POOL_ERROR_NULL_POINTER);
    CHECK_FAILS(memory_pool_find_damage(pool, NULL), POOL_ERROR_NULL_POINTER);
    CHECK_NEGATIVE(memory_pool_add_size_class_with(pool, NULL), POOL_ERROR_NULL_POINTER);
    refuses_handle(NULL, POOL_ERROR_NULL_POINTER);
    memory_pool_destroy(pool);
}

static void destroyed_pool(void)
{
    static union {
        uint64_t align;
        unsigned char bytes[64 * 1024];
    } region;
    memory_pool_t *pool = memory_pool_create_in(region.bytes, sizeof region.bytes, NULL);
    CHECK(pool != NULL);
    memory_pool_destroy(pool);
    refuses_handle(pool, POOL_ERROR_INVALID_HANDLE);
}

static void not_a_pool(void)
{
    static union {
        uint64_t align;
        unsigned char bytes[4096];
    } zeros, ones;
    memset(ones.bytes, 0xFF, sizeof ones.bytes);
    refuses_handle((memory_pool_t *)(void *)zeros.bytes, POOL_ERROR_INVALID_HANDLE);
    refuses_handle((memory_pool_t *)(void *)ones.bytes, POOL_ERROR_INVALID_HANDLE);
}

static void misaligned_handle(void)
{
    memory_pool_t *pool = check_pool(true, true);
    refuses_handle((memory_pool_t *)(void *)((char *)pool + 1), POOL_ERROR_INVALID_HANDLE);
    refuses_handle((memory_pool_t *)(void *)((char *)pool + 8), POOL_ERROR_INVALID_HANDLE);
    memory_pool_destroy(pool);
}

static void configurations(void)
{
    pool_config_t config;
    memset(&config, 0, sizeof config);
    config.pool_size = (size_t)1 << 60;
    config.enable_size_classes = true;
    config.pages = POOL_PAGES_OVERCOMMIT;
    CHECK_FAILS(memory_pool_create_with_config(&config), POOL_ERROR_SYSTEM);
    unsigned char region[16];
    CHECK_FAILS(memory_pool_create_in(region, sizeof region, NULL), POOL_ERROR_REGION_TOO_SMALL);
    CHECK_FAILS(memory_pool_create_in(NULL, 4096, NULL), POOL_ERROR_NULL_POINTER);
}

static void no_memory_left(void)
{
    struct rlimit limit = {256 * MIB, 256 * MIB};
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    CHECK_FAILS(memory_pool_create((size_t)8 << 30, false), POOL_ERROR_SYSTEM);
    memory_pool_t *pool = memory_pool_create(MIB, false);
    CHECK(pool != NULL);
    memory_pool_destroy(pool);
}

static void classes(void)
{
    memory_pool_t *pool = check_pool(false, true);
    CHECK_NEGATIVE(memory_pool_add_size_class(pool, 0, 1), POOL_ERROR_INVALID_CLASS_SIZE);
    CHECK_NEGATIVE(memory_pool_add_size_class(pool, SIZE_MAX, 1), POOL_ERROR_INVALID_CLASS_SIZE);
    CHECK_NEGATIVE(memory_pool_add_size_class(pool, 64, MIB), POOL_ERROR_RESERVE_TOO_LARGE);
    CHECK_NEGATIVE(memory_pool_add_size_class(pool, 64, SIZE_MAX), POOL_ERROR_RESERVE_TOO_LARGE);
    CHECK_NEGATIVE(memory_pool_class_of(pool, 64), POOL_ERROR_UNKNOWN_CLASS);
    for (size_t i = 0; i < MEMORY_POOL_MAX_CLASSES; i++) {
        CHECK(memory_pool_add_size_class(pool, 64 * (i + 1), 0) == (int)i);
    }
    CHECK_NEGATIVE(memory_pool_add_size_class(pool, 64, 0), POOL_ERROR_TOO_MANY_CLASSES);
    CHECK(memory_pool_validate(pool));
    memory_pool_destroy(pool);
}

/* What succeeds leaves the last error alone. */
static void success_keeps_the_error(void)
{
    CHECK(memory_pool_create(0, false) == NULL);
    memory_pool_t *pool = memory_pool_create(MIB, true);
    void *block = memory_pool_alloc(pool, 100);
    block = memory_pool_realloc(pool, block, 10000);
    CHECK(memory_pool_add_size_class(pool, 2048, 1) >= 0);
    CHECK(memory_pool_class_of(pool, 2048) >= 0);
    CHECK(!memory_pool_contains(pool, &pool));
    CHECK(memory_pool_free(pool, NULL));
    CHECK(memory_pool_free(pool, block));
    CHECK(memory_pool_flush_thread(pool));
    memory_pool_defragment(pool);
    CHECK(memory_pool_validate(pool));
    check_stats(pool);
    CHECK(memory_pool_reset(pool));
    memory_pool_destroy(pool);
    CHECK(memory_pool_get_last_error() == POOL_ERROR_INVALID_SIZE);
}

static void *fresh_thread(void *unused)
{
    (void)unused;
    CHECK(memory_pool_get_last_error() == POOL_OK);
    CHECK_FAILS(memory_pool_validate(NULL), POOL_ERROR_NULL_POINTER);
    return NULL;
}

static void each_thread_has_its_own(void)
{
    CHECK(memory_pool_create(0, false) == NULL);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, fresh_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(memory_pool_get_last_error() == POOL_ERROR_INVALID_SIZE);
}

/* In a process of its own, whose limits end with it. */
static void system_error(void)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        no_memory_left();
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
    RUN(first_error);
    RUN(texts);
    RUN(texts_of_other_numbers);
    RUN(null_pointers);
    RUN(destroyed_pool);
    RUN(not_a_pool);
    RUN(misaligned_handle);
    RUN(configurations);
    RUN(system_error);
    RUN(classes);
    RUN(success_keeps_the_error);
    RUN(each_thread_has_its_own);
    return 0;
}
