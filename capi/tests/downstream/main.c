/* A program of somebody else's, which knows what pkg-config says and no more. */
#include <memory_pool.h>

struct connection {
    uint32_t peer;
    uint16_t port;
    uint64_t bytes;
};

int main(void)
{
    memory_pool_t *pool = memory_pool_create(8 << 20, true);
    if (pool == NULL || memory_pool_add_size_class(pool, sizeof(struct connection), 1000) < 0) {
        fprintf(stderr, "%s\n", memory_pool_error_string(memory_pool_get_last_error()));
        return 1;
    }
    struct connection *connection = memory_pool_alloc_fixed(pool, sizeof *connection);
    if (connection == NULL) {
        return 1;
    }
    connection->port = 443;
    bool refused = !memory_pool_free(pool, &connection);
    bool freed = memory_pool_free_fixed(pool, connection);
    bool sound = memory_pool_validate(pool) && memory_pool_version() == MEMORY_POOL_VERSION;
    memory_pool_destroy(pool);
    return refused && freed && sound ? 0 : 1;
}
