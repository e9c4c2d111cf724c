#include "seed.h"

int main(void)
{
#include "sessions.inc"
    CHECK(session_pool != NULL);
    CHECK(memory_pool_get_last_error() == POOL_OK);
    for (uint32_t id = 0; id < 50000; id++) {
        vpn_session_t *session =
            (vpn_session_t *)memory_pool_alloc_fixed(session_pool, sizeof(vpn_session_t));
        CHECK(session != NULL);
        session->session_id = id;
    }
    check_and_destroy(session_pool);
    return 0;
}
