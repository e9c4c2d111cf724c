/*
 * What programs rely on in malloc and its relatives, as glibc has it. Passes without the pool too.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int failed;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "semantics.c:%d: not so: %s\n", __LINE__, #condition);                 \
            failed = 1;                                                                            \
        }                                                                                          \
    } while (0)

/* Hidden from the compiler, which knows too well what becomes of such sizes. */
static volatile size_t none = 0;
static volatile size_t huge = SIZE_MAX / 2 + 2;
static volatile size_t vast = PTRDIFF_MAX - 100000;

static bool is_zero(const unsigned char *bytes, size_t size)
{
    while (size > 0 && bytes[size - 1] == 0) {
        size--;
    }
    return size == 0;
}

static void check_zero_sizes(void)
{
    void *blocks[] = {malloc(none), malloc(none), calloc(none, 8), calloc(8, none),
                      realloc(NULL, none), memalign(64, none)};
    size_t count = sizeof blocks / sizeof *blocks;
    for (size_t i = 0; i < count; i++) {
        CHECK(blocks[i] != NULL);
        for (size_t other = 0; other < i; other++) {
            CHECK(blocks[i] != blocks[other]);
        }
    }
    CHECK(realloc(blocks[0], none) == NULL);
    for (size_t i = 1; i < count; i++) {
        free(blocks[i]);
    }
    CHECK(malloc_usable_size(NULL) == 0);
}

static void check_failures(void)
{
#define FAILS_WITH(error, call) (errno = 0, (call) == NULL && errno == (error))
    char *block = malloc(100);
    strcpy(block, "kept");
    CHECK(FAILS_WITH(ENOMEM, malloc(vast)));
    CHECK(FAILS_WITH(ENOMEM, calloc(huge, 2)));
    CHECK(FAILS_WITH(ENOMEM, calloc(vast, 1)));
    CHECK(FAILS_WITH(ENOMEM, realloc(block, vast)));
    CHECK(FAILS_WITH(ENOMEM, reallocarray(NULL, huge, 2)));
    CHECK(FAILS_WITH(ENOMEM, memalign(64, vast)));
    CHECK(FAILS_WITH(ENOMEM, pvalloc(SIZE_MAX - none)));
    CHECK(strcmp(block, "kept") == 0);

    void *untouched = block;
    errno = 0;
    CHECK(posix_memalign(&untouched, 24, 8) == EINVAL);
    CHECK(posix_memalign(&untouched, 4, 8) == EINVAL);
    CHECK(posix_memalign(&untouched, 0, 8) == EINVAL);
    CHECK(posix_memalign(&untouched, 64, vast) == ENOMEM);
    CHECK(untouched == block);
    free(block);
}

static void check_errno_is_kept(void)
{
    for (size_t size = 1; size < 1 << 24; size *= 3) {
        void *block = malloc(size);
        errno = 4711;
        free(block);
        CHECK(errno == 4711);
        free(NULL);
        CHECK(errno == 4711);
    }
}

static void check_alignment(void)
{
    for (size_t alignment = 8; alignment <= 1 << 21; alignment *= 2) {
        void *block = NULL;
        CHECK(posix_memalign(&block, alignment, 100) == 0);
        CHECK((uintptr_t)block % alignment == 0);
        free(block);
        block = aligned_alloc(alignment, 3 * alignment);
        CHECK(block != NULL && (uintptr_t)block % alignment == 0);
        memset(block, 1, 3 * alignment);
        free(block);
    }
    for (size_t size = 1; size < 5000; size += 7) {
        void *block = malloc(size);
        CHECK((uintptr_t)block % 16 == 0);
        CHECK(malloc_usable_size(block) >= size);
        memset(block, 1, malloc_usable_size(block));
        free(block);
    }
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *whole = pvalloc(page + 1), *start = valloc(1);
    CHECK((uintptr_t)whole % page == 0 && malloc_usable_size(whole) >= 2 * page);
    CHECK((uintptr_t)start % page == 0);
    free(whole);
    free(start);
}

static void check_contents(void)
{
    for (size_t size = 1; size < 1 << 22; size = size * 2 + 1) {
        unsigned char *block = malloc(size);
        memset(block, 0xaa, size);
        free(block);
        block = calloc(1, size);
        CHECK(is_zero(block, size));
        block[size - 1] = 42;
        block = realloc(block, size * 3);
        CHECK(is_zero(block, size - 1) && block[size - 1] == 42);
        block = realloc(block, size);
        CHECK(is_zero(block, size - 1) && block[size - 1] == 42);
        free(block);
    }
}

enum { THREADS = 4, FORKS = 200, HELD = 256 };

static bool stopping;

/* Allocates and frees at random, and looks at what it wrote. */
static void churn(unsigned *seed, unsigned long steps)
{
    unsigned char *held[HELD] = {NULL};
    size_t sizes[HELD] = {0};
    for (unsigned long step = 0; step < steps && !__atomic_load_n(&stopping, __ATOMIC_RELAXED);
         step++) {
        size_t at = (size_t)rand_r(seed) % HELD;
        CHECK(held[at] == NULL || held[at][sizes[at] - 1] == (unsigned char)at);
        free(held[at]);
        sizes[at] = 1 + (size_t)rand_r(seed) % (rand_r(seed) % 64 == 0 ? 100000 : 500);
        held[at] = malloc(sizes[at]);
        held[at][sizes[at] - 1] = (unsigned char)at;
    }
    for (size_t at = 0; at < HELD; at++) {
        free(held[at]);
    }
}

static void *churn_until_stopped(void *seed)
{
    churn(seed, (unsigned long)-1);
    return NULL;
}

static void check_forks_among_threads(void)
{
    pthread_t threads[THREADS];
    unsigned seeds[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        seeds[i] = i;
        CHECK(pthread_create(&threads[i], NULL, churn_until_stopped, &seeds[i]) == 0);
    }
    for (unsigned i = 0; i < FORKS; i++) {
        pid_t child = fork();
        if (child == 0) {
            churn(&i, 2000);
            _exit(failed);
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    __atomic_store_n(&stopping, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    stopping = false;
}

static void *churn_briefly(void *seed)
{
    churn(seed, 300);
    return NULL;
}

static void check_threads_that_come_and_go(void)
{
    for (unsigned seed = 0; seed < 500; seed++) {
        pthread_t thread;
        unsigned own_seed = seed;
        CHECK(pthread_create(&thread, NULL, churn_briefly, &own_seed) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
}

int main(void)
{
    alarm(120); /* a deadlock is a failure */
    check_zero_sizes();
    check_failures();
    check_errno_is_kept();
    check_alignment();
    check_contents();
    check_forks_among_threads();
    check_threads_that_come_and_go();
    puts(failed ? "FAILED" : "ok");
    return failed;
}
