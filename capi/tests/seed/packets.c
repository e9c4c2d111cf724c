#include "seed.h"

int main(void)
{
#include "packets.inc"
    CHECK(packet != NULL);
    CHECK(memory_pool_get_last_error() == POOL_OK);
    pool_stats_t stats;
    CHECK(memory_pool_get_stats(net_pool, &stats));
    CHECK(stats.live_objects == 0 && stats.slab_bytes >= 10000 * sizeof(network_packet_t));
    check_and_destroy(net_pool);
    return 0;
}
