/* Damage that a program does to the pool is found, and the corruption handler told. It writes to
   memory that is not its own. */
#include "check.h"

static struct {
    int calls;
    memory_pool_t *pool;
    pool_error_t error;
    const void *address;
    void *user_data;
} told;

static void tell(memory_pool_t *pool, pool_error_t error, const void *address, void *user_data)
{
    told.calls++;
    told.pool = pool;
    told.error = error;
    told.address = address;
    told.user_data = user_data;
}

static void expect(const memory_pool_t *pool, int calls, pool_error_t error)
{
    CHECK(told.calls == calls);
    CHECK(told.pool == pool);
    CHECK(told.error == error);
    CHECK(told.user_data == &told);
}

static memory_pool_t *watched_pool_with(uint32_t flags, bool classes, bool thread_safe)
{
    memory_pool_t *pool = check_pool_with(flags, classes, thread_safe);
    memset(&told, 0, sizeof told);
    CHECK(memory_pool_set_corruption_handler(pool, tell, &told));
    return pool;
}

static memory_pool_t *watched_pool(bool classes, bool thread_safe)
{
    return watched_pool_with(0, classes, thread_safe);
}

static void misuse_is_told(void)
{
    for (int kind = 0; kind < 4; kind++) {
        memory_pool_t *pool = watched_pool(kind & 1, kind & 2);
        char *block = memory_pool_alloc(pool, 100);
        CHECK(!memory_pool_free(pool, &pool));
        expect(pool, 1, POOL_ERROR_FOREIGN_POINTER);
        CHECK(told.address == &pool);
        CHECK(!memory_pool_free(pool, block + 64));
        expect(pool, 2, POOL_ERROR_NOT_A_BLOCK);
        CHECK(told.address == block + 64);
        CHECK(memory_pool_realloc(pool, block + 64, 10) == NULL);
        expect(pool, 3, POOL_ERROR_NOT_A_BLOCK);
        CHECK(memory_pool_free(pool, block));
        CHECK(!memory_pool_free(pool, block));
        expect(pool, 4, POOL_ERROR_DOUBLE_FREE);
        CHECK(told.address == block);
        CHECK(memory_pool_usable_size(pool, &pool) == 0);
        expect(pool, 5, POOL_ERROR_FOREIGN_POINTER);
        block = memory_pool_alloc(pool, 100);
        CHECK(!memory_pool_free_sized(pool, block, 1000));
        expect(pool, 6, POOL_ERROR_WRONG_SIZE);
        CHECK(told.address == block);
        CHECK(memory_pool_free_sized(pool, block, 100));
        CHECK(memory_pool_validate(pool));
        CHECK(told.calls == 6);
        memory_pool_destroy(pool);
    }
}

static void local_misuse_is_told(void)
{
    memory_pool_t *pool = watched_pool(true, true);
    memory_pool_local_t *local = memory_pool_local_create(pool);
    int class_id = memory_pool_class_of(pool, 512);
    void *slots[2] = {memory_pool_local_alloc_fixed(local, class_id), NULL};
    slots[1] = slots[0];
    CHECK(!memory_pool_local_free(local, &pool));
    expect(pool, 1, POOL_ERROR_FOREIGN_POINTER);
    CHECK(!memory_pool_local_free_fixed(local, memory_pool_class_of(pool, 64), slots[0]));
    expect(pool, 2, POOL_ERROR_WRONG_CLASS);
    CHECK(memory_pool_local_free_bulk(local, class_id, slots, 2) == 1);
    expect(pool, 3, POOL_ERROR_DOUBLE_FREE);
    CHECK(!memory_pool_local_free_fixed(local, class_id, slots[0]));
    expect(pool, 4, POOL_ERROR_DOUBLE_FREE);
    memory_pool_local_destroy(local);
    memory_pool_destroy(pool);
}

/* Misuse of handles and requests that fail are not damage. */
static void other_errors_are_not_told(void)
{
    memory_pool_t *pool = watched_pool(true, true);
    CHECK(memory_pool_alloc(pool, 2 * MIB) == NULL);
    CHECK(memory_pool_alloc(pool, 0) == NULL);
    CHECK(memory_pool_alloc_fixed(pool, MIB) == NULL);
    CHECK(memory_pool_add_size_class(pool, 0, 1) < 0);
    CHECK(told.calls == 0);
    CHECK(memory_pool_set_corruption_handler(pool, NULL, NULL));
    CHECK(!memory_pool_free(pool, &pool));
    CHECK(told.calls == 0);
    memory_pool_destroy(pool);
}

static void use_the_pool(memory_pool_t *pool, pool_error_t error, const void *address, void *data)
{
    (void)error;
    (void)address;
    int *calls = data;
    if (++*calls < 3) {
        CHECK(!memory_pool_free(pool, &pool));
    }
    void *block = memory_pool_alloc(pool, 5000);
    CHECK(block != NULL);
    CHECK(memory_pool_free(pool, block));
    CHECK(memory_pool_validate(pool));
    check_stats(pool);
}

static void a_handler_may_use_the_pool(void)
{
    for (int kind = 0; kind < 4; kind++) {
        memory_pool_t *pool = check_pool(kind & 1, kind & 2);
        int calls = 0;
        CHECK(memory_pool_set_corruption_handler(pool, use_the_pool, &calls));
        CHECK_FAILS(memory_pool_free(pool, &pool), POOL_ERROR_FOREIGN_POINTER);
        CHECK(calls == 3);
        memory_pool_destroy(pool);
    }
}

/* A live block's tag, the word in front of it, is overwritten. */
static void damaged_tag_of_a_live_block(void)
{
    for (int bit = 0; bit < 64; bit += 5) {
        memory_pool_t *pool = watched_pool(false, bit % 2);
        uint64_t *below = memory_pool_alloc(pool, 1000);
        uint64_t *block = memory_pool_alloc(pool, 1000);
        uint64_t *above = memory_pool_alloc(pool, 1000);
        CHECK(below != NULL && above != NULL);
        block[-1] ^= (uint64_t)1 << bit;
        CHECK(!memory_pool_free(pool, block));
        CHECK(told.calls == 1);
        CHECK_FAILS(memory_pool_validate(pool), POOL_ERROR_CORRUPTED);
        expect(pool, 2, POOL_ERROR_CORRUPTED);
        CHECK(memory_pool_contains(pool, told.address));
        CHECK(memory_pool_alloc(pool, 100) != NULL);
        block[-1] ^= (uint64_t)1 << bit;
        CHECK(memory_pool_validate(pool));
        CHECK(memory_pool_free(pool, block));
        memory_pool_destroy(pool);
    }
}

/* A block is written beyond its end. */
static void overrun(void)
{
    memory_pool_t *pool = watched_pool(false, true);
    char *block = memory_pool_alloc(pool, 1000);
    char *above = memory_pool_alloc(pool, 1000);
    CHECK(above != NULL);
    memset(block, 'x', memory_pool_usable_size(pool, block) + 64);
    CHECK_FAILS(memory_pool_validate(pool), POOL_ERROR_CORRUPTED);
    expect(pool, 1, POOL_ERROR_CORRUPTED);
    CHECK(!memory_pool_free(pool, above));
    CHECK(!memory_pool_free(pool, block));
    memory_pool_destroy(pool);
}

/* A block is written after its free, over the lists of free blocks. */
static void written_after_free(void)
{
    memory_pool_t *pool = watched_pool(false, false);
    char *block = memory_pool_alloc(pool, 1000);
    char *above = memory_pool_alloc(pool, 1000);
    CHECK(above != NULL);
    size_t usable = memory_pool_usable_size(pool, block);
    CHECK(memory_pool_free(pool, block));
    memory_pool_defragment(pool);
    memset(block, 'x', usable);
    CHECK_FAILS(memory_pool_validate(pool), POOL_ERROR_CORRUPTED);
    CHECK(told.calls >= 1);
    void *again = memory_pool_alloc(pool, 1000);
    CHECK(again != NULL || memory_pool_get_last_error() == POOL_ERROR_CORRUPTED);
    memory_pool_destroy(pool);
}

/* Random damage anywhere beyond the handle ends no call but with an answer. */
static void random_damage(void)
{
    uint32_t random = 11;
    for (unsigned round = check_rounds(300); round > 0; round--) {
        memory_pool_t *pool = watched_pool(false, false);
        unsigned char *blocks[64];
        for (size_t i = 0; i < 64; i++) {
            blocks[i] = memory_pool_alloc(pool, 1 + check_random(&random, 500));
        }
        for (size_t i = 0; i < 64; i += 3) {
            CHECK(memory_pool_free(pool, blocks[i]));
        }
        for (int hit = 0; hit < 5; hit++) {
            blocks[0][check_random(&random, 16 * KIB)] ^= 1 << check_random(&random, 8);
        }
        memory_pool_validate(pool);
        for (size_t i = 0; i < 64; i++) {
            memory_pool_free(pool, blocks[i]);
            memory_pool_alloc(pool, 1 + check_random(&random, 500));
        }
        memory_pool_destroy(pool);
    }
}

/* Calls that succeed come by damage too: freed memory that was written to is not handed out. */
static void poison_found_by_allocations_is_told(void)
{
    const size_t sizes[] = {140, 1000, 5000};
    for (int kind = 0; kind < 4; kind++) {
        for (size_t i = 0; i < 3; i++) {
            /* Without quarantine, so that an early allocation comes by it. */
            uint32_t flags = POOL_HARDENED & ~POOL_QUARANTINE;
            memory_pool_t *pool = watched_pool_with(flags, kind & 1, kind & 2);
            char *block = memory_pool_alloc(pool, sizes[i]);
            void *above = memory_pool_alloc(pool, sizes[i]);
            CHECK(memory_pool_free(pool, block) && above != NULL);
            block[50] ^= 1;
            check_set_another_error(POOL_OK);
            pool_error_t last = memory_pool_get_last_error();
            void *other = block;
            while (told.calls == 0 && other != NULL) {
                other = memory_pool_alloc(pool, sizes[i]);
                CHECK(other != block);
            }
            CHECK(other != NULL);
            expect(pool, 1, POOL_ERROR_CORRUPTED);
            CHECK(told.address == block + 50);
            CHECK(memory_pool_get_last_error() == last);
            memory_pool_destroy(pool);
        }
    }
}

/* Through a local cache, in bulk: each of several is told. */
static void poison_found_by_a_bulk_is_told(void)
{
    memory_pool_t *pool = watched_pool_with(POOL_HARDENED, true, true);
    memory_pool_local_t *local = memory_pool_local_create(pool);
    int class_id = memory_pool_add_size_class(pool, 1000, 64);
    void *slots[40];
    CHECK(memory_pool_local_alloc_bulk(local, class_id, slots, 40) == 40);
    CHECK(memory_pool_local_free_bulk(local, class_id, slots, 40) == 40);
    for (int i = 0; i < 40; i += 10) {
        ((char *)slots[i])[50] ^= 1;
    }
    while (check_stats(pool).damaged_blocks < 4) {
        CHECK(memory_pool_local_alloc_bulk(local, class_id, slots, 2) == 2);
    }
    expect(pool, 4, POOL_ERROR_CORRUPTED);
    memory_pool_local_destroy(local);
    memory_pool_destroy(pool);
}

/* Damage is told with the block or slot that was written past its end. */
static void the_culprit_is_told(void)
{
    for (int kind = 0; kind < 4; kind++) {
        memory_pool_t *pool = check_pool_with(POOL_HARDENED, kind & 1, kind & 2);
        pool_damage_t damage;
        CHECK(!memory_pool_find_damage(pool, &damage));
        const size_t sizes[] = {140, 5000};
        for (size_t i = 0; i < 2; i++) {
            char *block = memory_pool_alloc(pool, sizes[i]);
            char was = block[sizes[i]];
            block[sizes[i]] = 0;
            CHECK(memory_pool_find_damage(pool, &damage));
            CHECK(damage.address == block + sizes[i] && damage.below == block);
            CHECK(damage.below_is_live && damage.class_id == damage.below_class_id);
            CHECK((damage.class_id >= 0) == ((kind & 1) && i == 0));
            char address[32];
            snprintf(address, sizeof address, "%p", (void *)block);
            CHECK(strstr(damage.text, address) != NULL && strstr(damage.text, "canary") != NULL);
            block[sizes[i]] = was;
        }
        CHECK(!memory_pool_find_damage(pool, &damage));
        memory_pool_destroy(pool);
    }
    memory_pool_t *pool = check_pool(false, false);
    char *below = memory_pool_alloc(pool, 5000);
    char *above = memory_pool_alloc(pool, 5000);
    above[-8] ^= 1;
    pool_damage_t damage;
    CHECK(memory_pool_find_damage(pool, &damage));
    CHECK(damage.address == above - 8 && damage.below == below && damage.below_is_live);
    CHECK(damage.class_id == -1 && damage.below_class_id == -1);
    CHECK(strlen(damage.text) > 50 && strlen(damage.text) < POOL_DAMAGE_TEXT - 1);
    memory_pool_destroy(pool);
}

/* A handle that was overwritten is no handle. */
static void damaged_handle(void)
{
    memory_pool_t *pool = check_pool(true, true);
    uint64_t first;
    memcpy(&first, pool, sizeof first);
    memset(pool, 'x', sizeof first);
    CHECK_FAILS(memory_pool_alloc(pool, 64), POOL_ERROR_INVALID_HANDLE);
    memcpy(pool, &first, sizeof first);
    CHECK(memory_pool_validate(pool));
    memory_pool_destroy(pool);
}

int main(void)
{
    RUN(misuse_is_told);
    RUN(local_misuse_is_told);
    RUN(other_errors_are_not_told);
    RUN(a_handler_may_use_the_pool);
    RUN(damaged_tag_of_a_live_block);
    RUN(overrun);
    RUN(written_after_free);
    RUN(random_damage);
    RUN(poison_found_by_allocations_is_told);
    RUN(poison_found_by_a_bulk_is_told);
    RUN(the_culprit_is_told);
    RUN(damaged_handle);
    return 0;
}
