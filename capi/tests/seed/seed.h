/*
 * seed.h - what surrounds the blocks of LibMemPool's README.
 *
 * Each .inc file is one C block of that README as it stands there (the block that creates pools is
 * two: it declares one name twice); the .c file of its name supplies what the block takes for
 * granted, and checks what it did.
 */
#ifndef SEED_H
#define SEED_H

#include "memory_pool.h"

#include <stdlib.h>

/** The condition holds; says where it does not, and ends the program. */
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s does not hold; last error: %s\n", __FILE__, __LINE__,       \
                    #condition, memory_pool_error_string(memory_pool_get_last_error()));           \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/** The pool is there, serves, is sound, and ends. */
static inline void check_and_destroy(memory_pool_t *pool)
{
    CHECK(pool != NULL);
    void *block = memory_pool_alloc(pool, 100);
    CHECK(block != NULL);
    CHECK(memory_pool_free(pool, block));
    CHECK(memory_pool_validate(pool));
    memory_pool_destroy(pool);
}

#endif /* SEED_H */
