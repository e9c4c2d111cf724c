/* The first program: it has a main function of its own, which does not check. */
#define main seed_main
#include "basic.inc"
#undef main

#include "seed.h"

int main(void)
{
    CHECK(seed_main() == 0);
    CHECK(memory_pool_get_last_error() == POOL_OK);
    return 0;
}
