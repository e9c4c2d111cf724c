/* The shared library is loaded and unloaded while threads that used it live on. */
#include "check.h"

#include <dlfcn.h>
#include <pthread.h>

/* The library's functions, as they were loaded. */
struct library {
    void *handle;
    memory_pool_t *(*create)(size_t size, bool thread_safe);
    void (*destroy)(memory_pool_t *pool);
    void *(*alloc)(memory_pool_t *pool, size_t size);
    bool (*free)(memory_pool_t *pool, void *ptr);
    pool_error_t (*last_error)(void);
};

/* As POSIX has it: what dlsym() returns may be a function. */
static void find(const struct library *library, const char *name, void *function)
{
    void *symbol = dlsym(library->handle, name);
    CHECK(symbol != NULL);
    memcpy(function, &symbol, sizeof symbol);
}

static struct library load(void)
{
    struct library library;
    library.handle = dlopen("libmempool.so.0", RTLD_NOW | RTLD_LOCAL);
    if (library.handle == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    find(&library, "memory_pool_create", &library.create);
    find(&library, "memory_pool_destroy", &library.destroy);
    find(&library, "memory_pool_alloc", &library.alloc);
    find(&library, "memory_pool_free", &library.free);
    find(&library, "memory_pool_get_last_error", &library.last_error);
    return library;
}

static void unload(struct library *library)
{
    CHECK(dlclose(library->handle) == 0);
}

static void use(const struct library *library, memory_pool_t *pool)
{
    void *block = library->alloc(pool, 100);
    CHECK(block != NULL);
    check_fill(block, 100, 1);
    CHECK(library->free(pool, block));
    CHECK(!library->free(pool, block));
    CHECK(library->last_error() == POOL_ERROR_DOUBLE_FREE);
}

static void again_and_again(void)
{
    for (unsigned round = check_rounds(200); round > 0; round--) {
        struct library library = load();
        memory_pool_t *pool = library.create(MIB, round % 2);
        CHECK(pool != NULL);
        use(&library, pool);
        library.destroy(pool);
        unload(&library);
    }
}

static pthread_barrier_t barrier;
static struct library shared;
static memory_pool_t *shared_pool;

static void *use_and_outlive(void *unused)
{
    use(&shared, shared_pool);
    pthread_barrier_wait(&barrier);
    /* Here the library is closed. */
    pthread_barrier_wait(&barrier);
    return unused;
}

static void under_living_threads(bool destroyed)
{
    enum { THREADS = 3 };
    for (unsigned round = check_rounds(50); round > 0; round--) {
        pthread_t threads[THREADS];
        CHECK(pthread_barrier_init(&barrier, NULL, THREADS + 1) == 0);
        shared = load();
        shared_pool = shared.create(MIB, true);
        for (int i = 0; i < THREADS; i++) {
            CHECK(pthread_create(&threads[i], NULL, use_and_outlive, NULL) == 0);
        }
        pthread_barrier_wait(&barrier);
        if (destroyed) {
            shared.destroy(shared_pool);
        }
        unload(&shared);
        pthread_barrier_wait(&barrier);
        for (int i = 0; i < THREADS; i++) {
            CHECK(pthread_join(threads[i], NULL) == 0);
        }
        pthread_barrier_destroy(&barrier);
    }
}

static void after_their_pool(void)
{
    under_living_threads(true);
}

/* The pool is never destroyed: threads that end return their caches to it. */
static void before_their_pool(void)
{
    under_living_threads(false);
}

static void *load_and_use(void *unused)
{
    again_and_again();
    return unused;
}

static void by_many_threads(void)
{
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_create(&threads[i], NULL, load_and_use, NULL) == 0);
    }
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
}

int main(void)
{
    RUN(again_and_again);
    RUN(after_their_pool);
    RUN(before_their_pool);
    RUN(by_many_threads);
    return 0;
}
