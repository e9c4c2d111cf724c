#include "seed.h"

int main(void)
{
    size_t pool_size = 16 * 1024 * 1024;
    bool thread_safe = true;
#include "create_simple.inc"
    check_and_destroy(pool);
    return 0;
}
