/* A pool, a block, and what happens to mistakes. */
#include "memory_pool.h"

static int fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, memory_pool_error_string(memory_pool_get_last_error()));
    return 1;
}

int main(void)
{
    memory_pool_t *pool = memory_pool_create(16 * 1024 * 1024, true);
    if (pool == NULL) {
        return fail("no pool");
    }
    char *greeting = memory_pool_alloc(pool, 100);
    if (greeting == NULL) {
        return fail("no memory");
    }
    strcpy(greeting, "hello");
    char *longer = memory_pool_realloc(pool, greeting, 1000);
    if (longer == NULL) {
        return fail("no more memory");
    }
    strcat(longer, " from the pool");
    puts(longer);

    if (!memory_pool_free(pool, longer)) {
        return fail("our own block");
    }
    if (memory_pool_free(pool, longer)) {
        return fail("freed twice");
    }
    printf("a second free is refused: %s\n",
           memory_pool_error_string(memory_pool_get_last_error()));

    if (!memory_pool_validate(pool)) {
        return fail("damaged");
    }
    memory_pool_destroy(pool);
    return 0;
}
