#include "seed.h"

int main(void)
{
#include "create_configured.inc"
    CHECK(pool != NULL);
    CHECK(memory_pool_class_of(pool, 4096) >= 0);
    CHECK(memory_pool_class_of(pool, 4097) < 0);
    check_and_destroy(pool);
    return 0;
}
