/* Parent and child both go on using their pools after a fork. */
#include "check.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

static memory_pool_t *shared;

static void use(unsigned seed)
{
    void *blocks[50];
    for (size_t i = 0; i < 50; i++) {
        size_t size = 1 + (i * 53 + seed) % 3000;
        blocks[i] = memory_pool_alloc(shared, size);
        CHECK(blocks[i] != NULL);
        check_fill(blocks[i], size, (unsigned char)size);
    }
    for (size_t i = 0; i < 50; i++) {
        size_t size = 1 + (i * 53 + seed) % 3000;
        CHECK(check_filled(blocks[i], size, (unsigned char)size));
        CHECK(memory_pool_free(shared, blocks[i]));
    }
}

/* A child ends its pool: blocks of threads that it does not have are lost otherwise. */
static pid_t start_child(void (*work)(void))
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        work();
        memory_pool_destroy(shared);
        _exit(0);
    }
    return child;
}

static void end_child(pid_t child)
{
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(!WIFSIGNALED(status));
    CHECK(WEXITSTATUS(status) == 0);
}

static void *inherited;

static void use_what_is_inherited(void)
{
    CHECK(check_filled(inherited, 1000, 4));
    CHECK(memory_pool_free(shared, inherited));
    CHECK_FAILS(memory_pool_free(shared, inherited), POOL_ERROR_DOUBLE_FREE);
    for (unsigned i = 0; i < 20; i++) {
        use(i);
    }
    CHECK(memory_pool_validate(shared));
    CHECK(check_stats(shared).live_objects == 0);
}

/* The child frees its copy; the parent's block stays live. */
static void copies(bool thread_safe)
{
    shared = memory_pool_create(4 * MIB, thread_safe);
    use(0);
    for (unsigned round = check_rounds(50); round > 0; round--) {
        inherited = memory_pool_alloc(shared, 1000);
        check_fill(inherited, 1000, 4);
        pid_t child = start_child(use_what_is_inherited);
        use(round);
        end_child(child);
        CHECK(check_filled(inherited, 1000, 4));
        CHECK(memory_pool_free(shared, inherited));
    }
    CHECK(memory_pool_validate(shared));
    memory_pool_destroy(shared);
}

static void one_thread(void)
{
    copies(false);
}

static void thread_safe(void)
{
    copies(true);
}

/* ---- Forks while other threads allocate ---- */

static void *use_in_thread(void *seed)
{
    for (unsigned i = 0; i < 20; i++) {
        use(i + *(unsigned *)seed);
    }
    return NULL;
}

static void use_with_threads(void)
{
    use(1);
    pthread_t threads[2];
    unsigned seeds[2] = {100, 200};
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_create(&threads[i], NULL, use_in_thread, &seeds[i]) == 0);
    }
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(memory_pool_validate(shared));
    /* What threads of the parent had in hand, and half-done, goes too. */
    CHECK(memory_pool_reset(shared));
    CHECK(check_stats(shared).live_objects == 0);
    use(7);
    CHECK(memory_pool_validate(shared));
}

static void make_a_grandchild(void)
{
    use(2);
    end_child(start_child(use_with_threads));
    use(3);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static bool stopping;

static bool stop_requested(void)
{
    pthread_mutex_lock(&mutex);
    bool stop = stopping;
    pthread_mutex_unlock(&mutex);
    return stop;
}

static void *use_until_stopped(void *seed)
{
    for (unsigned i = *(unsigned *)seed; !stop_requested(); i++) {
        use(i);
    }
    return NULL;
}

static void *fork_often(void *work)
{
    for (unsigned round = check_rounds(100); round > 0; round--) {
        use(round);
        end_child(start_child(*(void (**)(void))work));
    }
    return NULL;
}

static void while_others_allocate(void)
{
    enum { USERS = 4 };
    shared = memory_pool_create(16 * MIB, true);
    pthread_t threads[USERS], forking;
    unsigned seeds[USERS] = {1, 20, 300, 4000};
    for (int i = 0; i < USERS; i++) {
        CHECK(pthread_create(&threads[i], NULL, use_until_stopped, &seeds[i]) == 0);
    }
    void (*work)(void) = use_with_threads;
    CHECK(pthread_create(&forking, NULL, fork_often, &work) == 0);
    void (*deep_work)(void) = make_a_grandchild;
    fork_often(&deep_work);
    CHECK(pthread_join(forking, NULL) == 0);
    pthread_mutex_lock(&mutex);
    stopping = true;
    pthread_mutex_unlock(&mutex);
    for (int i = 0; i < USERS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(memory_pool_validate(shared));
    CHECK(check_stats(shared).live_objects == 0);
    memory_pool_destroy(shared);
}

/* ---- Forks while other threads make and end pools ---- */

static void *make_and_end(void *unused)
{
    (void)unused;
    while (!stop_requested()) {
        memory_pool_t *own = memory_pool_create(256 * KIB, true);
        CHECK(own != NULL);
        CHECK(memory_pool_free(own, memory_pool_alloc(own, 100)));
        memory_pool_destroy(own);
    }
    return NULL;
}

static void make_pools(void)
{
    memory_pool_t *own = memory_pool_create(256 * KIB, true);
    CHECK(own != NULL);
    CHECK(memory_pool_free(own, memory_pool_alloc(own, 100)));
    memory_pool_destroy(own);
    use(9);
}

static void while_others_make_pools(void)
{
    shared = memory_pool_create(4 * MIB, true);
    stopping = false;
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, make_and_end, NULL) == 0);
    void (*work)(void) = make_pools;
    fork_often(&work);
    pthread_mutex_lock(&mutex);
    stopping = true;
    pthread_mutex_unlock(&mutex);
    CHECK(pthread_join(thread, NULL) == 0);
    memory_pool_destroy(shared);
}

/* Handlers of the program's own, registered before the first pool: around each fork they use the pool's
 * heap, which takes its lock. */
static void use_in_handler(void)
{
    if (shared != NULL) {
        void *block = memory_pool_alloc(shared, 20000);
        CHECK(block != NULL);
        CHECK(memory_pool_free(shared, block));
    }
}

int main(void)
{
    CHECK(pthread_atfork(use_in_handler, use_in_handler, use_in_handler) == 0);
    RUN(one_thread);
    RUN(thread_safe);
    RUN(while_others_allocate);
    RUN(while_others_make_pools);
    return 0;
}
