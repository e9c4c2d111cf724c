/* Many threads use one pool, and come and go. What they do is seeded; when they do it never
   decides. */
#include "check.h"

#include <pthread.h>

enum { THREADS = 8 };

static void start(pthread_t *thread, void *(*work)(void *), void *argument)
{
    CHECK(pthread_create(thread, NULL, work, argument) == 0);
}

static void join(pthread_t thread)
{
    CHECK(pthread_join(thread, NULL) == 0);
}

/* The pool is as it was before: nothing live, nothing lost. */
static void close_pool(memory_pool_t *pool)
{
    CHECK(memory_pool_validate(pool));
    pool_stats_t stats = check_stats(pool);
    CHECK(stats.live_objects == 0 && stats.live_bytes == 0);
    CHECK(stats.refused_frees == 0);
    memory_pool_destroy(pool);
}

/* ---- A queue of pointers, from producers to consumers ---- */

enum { QUEUE = 256 };

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    void *items[QUEUE];
    unsigned first, count;
} queue = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, {NULL}, 0, 0};

static void put(void *item)
{
    pthread_mutex_lock(&queue.mutex);
    while (queue.count == QUEUE) {
        pthread_cond_wait(&queue.changed, &queue.mutex);
    }
    queue.items[(queue.first + queue.count++) % QUEUE] = item;
    pthread_cond_broadcast(&queue.changed);
    pthread_mutex_unlock(&queue.mutex);
}

static void *take(void)
{
    pthread_mutex_lock(&queue.mutex);
    while (queue.count == 0) {
        pthread_cond_wait(&queue.changed, &queue.mutex);
    }
    void *item = queue.items[queue.first];
    queue.first = (queue.first + 1) % QUEUE;
    queue.count--;
    pthread_cond_broadcast(&queue.changed);
    pthread_mutex_unlock(&queue.mutex);
    return item;
}

struct packet {
    uint32_t number, length;
    unsigned char data[2000];
};

static memory_pool_t *shared;

static void *produce(void *unused)
{
    (void)unused;
    uint32_t random = 5;
    for (unsigned number = check_rounds(50000); number > 0; number--) {
        uint32_t length = check_random(&random, 1500);
        struct packet *packet = NULL;
        while (packet == NULL) {
            packet = memory_pool_alloc(shared, offsetof(struct packet, data) + length);
        }
        packet->number = number;
        packet->length = length;
        check_fill(packet->data, length, (unsigned char)number);
        put(packet);
    }
    put(NULL);
    return NULL;
}

static void *consume(void *unused)
{
    (void)unused;
    struct packet *packet;
    while ((packet = take()) != NULL) {
        CHECK(check_filled(packet->data, packet->length, (unsigned char)packet->number));
        CHECK(memory_pool_free(shared, packet));
    }
    return NULL;
}

static void producers_and_consumers(void)
{
    shared = memory_pool_create(4 * MIB, true);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        start(&threads[i], i < 2 ? produce : consume, NULL);
    }
    for (int i = 0; i < 4; i++) {
        join(threads[i]);
    }
    close_pool(shared);
}

/* ---- Threads that exchange blocks through shared places ---- */

enum { PLACES = 64 };

static struct place {
    pthread_mutex_t mutex;
    unsigned char *block;
    size_t size;
} places[PLACES];

static void replace(struct place *place, unsigned char *block, size_t size)
{
    pthread_mutex_lock(&place->mutex);
    unsigned char *old = place->block;
    size_t old_size = place->size;
    place->block = block;
    place->size = size;
    pthread_mutex_unlock(&place->mutex);
    if (old != NULL) {
        CHECK(check_filled(old, old_size, (unsigned char)old_size));
        CHECK(memory_pool_free(shared, old));
    }
}

static unsigned char *allocate(uint32_t kind, size_t size)
{
    unsigned char *block = NULL;
    if (kind == 0) {
        block = memory_pool_alloc_aligned(shared, size, 256);
    } else if (kind == 1) {
        block = memory_pool_calloc(shared, size, 1);
        CHECK(block == NULL || check_all(block, size, 0));
    } else if (kind == 2) {
        block = memory_pool_realloc(shared, memory_pool_alloc(shared, 10), size);
    } else {
        block = memory_pool_alloc(shared, size);
    }
    return block;
}

static void *exchange(void *seed)
{
    uint32_t random = 1 + *(unsigned *)seed;
    for (unsigned round = check_rounds(30000); round > 0; round--) {
        size_t size = 1 + check_random(&random, check_random(&random, 16) == 0 ? 40000 : 1000);
        unsigned char *block = allocate(check_random(&random, 8), size);
        CHECK(block != NULL);
        check_fill(block, size, (unsigned char)size);
        replace(&places[check_random(&random, PLACES)], block, size);
        if (check_random(&random, 1000) == 0) {
            CHECK(memory_pool_validate(shared));
            memory_pool_defragment(shared);
        }
    }
    return NULL;
}

static void run_together(void *(*work)(void *))
{
    pthread_t threads[THREADS];
    unsigned seeds[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        seeds[i] = i;
        start(&threads[i], work, &seeds[i]);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        join(threads[i]);
    }
}

static void exchanges(void)
{
    shared = memory_pool_create(32 * MIB, true);
    for (int i = 0; i < PLACES; i++) {
        places[i] = (struct place){PTHREAD_MUTEX_INITIALIZER, NULL, 0};
    }
    run_together(exchange);
    for (int i = 0; i < PLACES; i++) {
        replace(&places[i], NULL, 0);
    }
    close_pool(shared);
}

/* ---- Threads that come and go ---- */

static void *use_and_end(void *seed)
{
    void *blocks[100];
    for (size_t i = 0; i < 100; i++) {
        blocks[i] = memory_pool_alloc(shared, 1 + (i + *(unsigned *)seed) * 37 % 1000);
        CHECK(blocks[i] != NULL);
    }
    for (size_t i = 0; i < 100; i++) {
        CHECK(memory_pool_free(shared, blocks[i]));
    }
    return NULL;
}

/* Ends with a full cache, in the middle of its work. */
static void *exit_with_a_cache(void *seed)
{
    use_and_end(seed);
    pthread_exit(NULL);
}

/* Is cancelled with a full cache: at once, or between two calls. */
static void *be_cancelled(void *seed)
{
    while (use_and_end(seed) == NULL) {
        pthread_testcancel();
    }
    return NULL;
}

static void start_and_cancel(void)
{
    pthread_t threads[THREADS];
    unsigned seeds[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        seeds[i] = i * 13;
        start(&threads[i], be_cancelled, &seeds[i]);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        CHECK(pthread_cancel(threads[i]) == 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        void *result = NULL;
        CHECK(pthread_join(threads[i], &result) == 0);
        CHECK(result == PTHREAD_CANCELED);
    }
}

static void caches_return_when_threads_exit_or_are_cancelled(void)
{
    shared = memory_pool_create(4 * MIB, true);
    run_together(use_and_end);
    size_t caches = check_stats(shared).num_caches;
    for (unsigned round = check_rounds(50); round > 0; round--) {
        run_together(exit_with_a_cache);
        start_and_cancel();
        CHECK(check_stats(shared).num_caches == caches);
    }
    memory_pool_defragment(shared);
    CHECK(check_stats(shared).cached_objects == 0);
    close_pool(shared);
}

static size_t slots_that_fit(size_t size)
{
    static void *slots[100000];
    size_t count = 0;
    while (count < 100000 && (slots[count] = memory_pool_alloc(shared, size)) != NULL) {
        count++;
    }
    for (size_t i = 0; i < count; i++) {
        CHECK(memory_pool_free(shared, slots[i]));
    }
    return count;
}

static void caches_return_when_threads_end(void)
{
    shared = memory_pool_create(4 * MIB, true);
    run_together(use_and_end);
    size_t caches = check_stats(shared).num_caches;
    for (unsigned round = check_rounds(50); round > 0; round--) {
        run_together(use_and_end);
        CHECK(check_stats(shared).num_caches == caches);
    }
    memory_pool_defragment(shared);
    CHECK(check_stats(shared).cached_objects == 0);
    close_pool(shared);
}

/* Threads that came and went leave as much memory as there was. */
static void nothing_is_lost(void)
{
    shared = memory_pool_create(2 * MIB, true);
    run_together(use_and_end);
    size_t before = slots_that_fit(600);
    for (unsigned round = check_rounds(50); round > 0; round--) {
        run_together(use_and_end);
    }
    CHECK(slots_that_fit(600) >= before - before / 100);
    close_pool(shared);
}

static void *use_and_keep(void *kept)
{
    *(void **)kept = memory_pool_alloc(shared, 500);
    CHECK(*(void **)kept != NULL);
    return NULL;
}

static void blocks_outlive_their_threads(void)
{
    shared = memory_pool_create(MIB, true);
    for (unsigned round = check_rounds(100); round > 0; round--) {
        pthread_t thread;
        void *kept = NULL;
        start(&thread, use_and_keep, &kept);
        join(thread);
        check_fill(kept, 500, 1);
        CHECK(memory_pool_free(shared, kept));
    }
    close_pool(shared);
}

/* ---- Threads whose own destructors use the pool ---- */

static pthread_key_t key;

/* Runs while the thread ends, before or after the library's own destructor, and again. */
static void free_at_the_end(void *block)
{
    CHECK(memory_pool_free(shared, block));
    void *last = memory_pool_alloc(shared, 300);
    CHECK(last != NULL);
    CHECK(memory_pool_free(shared, last));
    static unsigned again;
    if (again++ % 3 != 2) {
        CHECK(pthread_setspecific(key, memory_pool_alloc(shared, 64)) == 0);
    }
}

static void *leave_to_the_destructor(void *unused)
{
    CHECK(pthread_setspecific(key, memory_pool_alloc(shared, 64)) == 0);
    return unused;
}

static void destructors_use_the_pool(void)
{
    shared = memory_pool_create(MIB, true);
    CHECK(pthread_key_create(&key, free_at_the_end) == 0);
    for (unsigned round = check_rounds(100); round > 0; round--) {
        pthread_t thread;
        start(&thread, leave_to_the_destructor, NULL);
        join(thread);
    }
    CHECK(pthread_key_delete(key) == 0);
    CHECK(slots_that_fit(600) > 1000);
    close_pool(shared);
}

/* ---- Pools that come and go under threads that stay ---- */

static pthread_barrier_t barrier;

/* What a thread's cache held before a reset is not handed out after it. */
static void *use_around_a_reset(void *seed)
{
    use_and_end(seed);
    pthread_barrier_wait(&barrier);
    /* Here the pool is reset. */
    pthread_barrier_wait(&barrier);
    use_and_end(seed);
    return NULL;
}

static void a_reset_empties_caches(void)
{
    enum { USERS = 3 };
    pthread_t threads[USERS];
    unsigned seeds[USERS] = {0, 1, 2};
    CHECK(pthread_barrier_init(&barrier, NULL, USERS + 1) == 0);
    shared = memory_pool_create(2 * MIB, true);
    for (unsigned round = check_rounds(100); round > 0; round--) {
        for (int i = 0; i < USERS; i++) {
            start(&threads[i], use_around_a_reset, &seeds[i]);
        }
        pthread_barrier_wait(&barrier);
        CHECK(memory_pool_alloc(shared, 100) != NULL);
        CHECK(memory_pool_reset(shared));
        CHECK(check_stats(shared).cached_objects == 0);
        pthread_barrier_wait(&barrier);
        use_and_end(&seeds[0]);
        for (int i = 0; i < USERS; i++) {
            join(threads[i]);
        }
        CHECK(memory_pool_validate(shared));
    }
    pthread_barrier_destroy(&barrier);
    close_pool(shared);
}

static void *use_and_wait(void *seed)
{
    use_and_end(seed);
    pthread_barrier_wait(&barrier);
    /* Here the pool is destroyed, and its memory used for something else. */
    pthread_barrier_wait(&barrier);
    return NULL;
}

/* The end of a thread does not touch what was a pool. */
static void destroyed_regions_are_left_alone(void)
{
    static union {
        uint64_t align;
        unsigned char bytes[1024 * 1024];
    } region;
    pool_config_t config;
    memset(&config, 0, sizeof config);
    config.thread_safe = true;
    config.enable_size_classes = true;
    CHECK(pthread_barrier_init(&barrier, NULL, 2) == 0);
    for (unsigned round = check_rounds(50); round > 0; round--) {
        shared = memory_pool_create_in(region.bytes, sizeof region.bytes, &config);
        CHECK(shared != NULL);
        pthread_t thread;
        unsigned seed = round;
        start(&thread, use_and_wait, &seed);
        pthread_barrier_wait(&barrier);
        memory_pool_destroy(shared);
        memset(region.bytes, 0xA5, sizeof region.bytes);
        pthread_barrier_wait(&barrier);
        join(thread);
        CHECK(check_all(region.bytes, sizeof region.bytes, 0xA5));
    }
    pthread_barrier_destroy(&barrier);
}

static void *use_each_pool(void *seed)
{
    for (unsigned round = check_rounds(200); round > 0; round--) {
        pthread_barrier_wait(&barrier);
        use_and_end(seed);
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

static void pools_end_before_their_threads(void)
{
    enum { USERS = 3 };
    pthread_t threads[USERS];
    unsigned seeds[USERS] = {0, 1, 2};
    CHECK(pthread_barrier_init(&barrier, NULL, USERS + 1) == 0);
    for (int i = 0; i < USERS; i++) {
        start(&threads[i], use_each_pool, &seeds[i]);
    }
    for (unsigned round = check_rounds(200); round > 0; round--) {
        shared = memory_pool_create(2 * MIB, true);
        CHECK(shared != NULL);
        pthread_barrier_wait(&barrier);
        pthread_barrier_wait(&barrier);
        close_pool(shared);
    }
    for (int i = 0; i < USERS; i++) {
        join(threads[i]);
    }
    pthread_barrier_destroy(&barrier);
}

static void *use_many_pools(void *seed)
{
    memory_pool_t *pools[20];
    for (int i = 0; i < 20; i++) {
        pools[i] = memory_pool_create(MIB, true);
        CHECK(pools[i] != NULL);
    }
    for (unsigned round = check_rounds(100); round > 0; round--) {
        for (int i = 0; i < 20; i++) {
            void *block = memory_pool_alloc(pools[i], 1 + (round * 7 + *(unsigned *)seed) % 500);
            CHECK(memory_pool_contains(pools[i], block));
            CHECK(!memory_pool_contains(pools[(i + 1) % 20], block));
            CHECK(memory_pool_free(pools[i], block));
        }
    }
    for (int i = 0; i < 20; i++) {
        close_pool(pools[i]);
    }
    return NULL;
}

static void each_with_pools_of_its_own(void)
{
    run_together(use_many_pools);
}

/* ---- Memory runs out for all of them ---- */

static void *exhaust(void *seed)
{
    uint32_t random = 77 + *(unsigned *)seed;
    void *blocks[300] = {NULL};
    for (unsigned round = check_rounds(10000); round > 0; round--) {
        uint32_t i = check_random(&random, 300);
        CHECK(memory_pool_free(shared, blocks[i]));
        blocks[i] = memory_pool_alloc(shared, 1 + check_random(&random, 2000));
        CHECK(blocks[i] != NULL || check_was_short());
    }
    for (int i = 0; i < 300; i++) {
        CHECK(memory_pool_free(shared, blocks[i]));
    }
    return NULL;
}

static void exhaustion(void)
{
    shared = memory_pool_create(MIB, true);
    void *most = memory_pool_alloc(shared, 850 * KIB);
    CHECK(most != NULL);
    run_together(exhaust);
    CHECK(memory_pool_free(shared, most));
    CHECK(check_stats(shared).failures > 0);
    close_pool(shared);
}

int main(void)
{
    RUN(producers_and_consumers);
    RUN(exchanges);
    RUN(caches_return_when_threads_end);
    RUN(caches_return_when_threads_exit_or_are_cancelled);
    RUN(nothing_is_lost);
    RUN(blocks_outlive_their_threads);
    RUN(destructors_use_the_pool);
    RUN(a_reset_empties_caches);
    RUN(destroyed_regions_are_left_alone);
    RUN(pools_end_before_their_threads);
    RUN(each_with_pools_of_its_own);
    RUN(exhaustion);
    return 0;
}
