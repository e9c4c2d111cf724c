/* VPN sessions: a reserve of objects of one size; who comes when there is no more room is refused,
 * and who leaves makes room. */
#include "memory_pool.h"

enum { RESERVE = 50000, PEERS = 1000000 };

typedef struct vpn_session {
    uint32_t session_id;
    char remote_ip[16];
    time_t created_time;
    uint64_t bytes_transferred;
    struct vpn_session *next;
} vpn_session_t;

static memory_pool_t *pool;
static vpn_session_t *sessions;

static int fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, memory_pool_error_string(memory_pool_get_last_error()));
    return 1;
}

static vpn_session_t *open_session(uint32_t id)
{
    vpn_session_t *session = memory_pool_alloc_fixed(pool, sizeof *session);
    if (session == NULL) {
        return NULL;
    }
    session->session_id = id;
    snprintf(session->remote_ip, sizeof session->remote_ip, "10.%u.%u.%u", id >> 16 & 0xFF,
             id >> 8 & 0xFF, id & 0xFF);
    session->created_time = time(NULL);
    session->bytes_transferred = 0;
    session->next = sessions;
    sessions = session;
    return session;
}

static bool close_session(void)
{
    vpn_session_t *session = sessions;
    sessions = session->next;
    return memory_pool_free_fixed(pool, session);
}

/* Opens sessions until there is no memory; their number. */
static uint32_t open_many(void)
{
    uint32_t opened = 0;
    while (opened < PEERS && open_session(opened) != NULL) {
        opened++;
    }
    return opened;
}

int main(void)
{
    pool = memory_pool_create(32 * 1024 * 1024, true);
    if (pool == NULL || memory_pool_add_size_class(pool, sizeof(vpn_session_t), RESERVE) < 0) {
        return fail("no pool");
    }
    uint32_t opened = open_many();
    printf("%u sessions, then: %s\n", opened,
           memory_pool_error_string(memory_pool_get_last_error()));
    if (opened < RESERVE || opened == PEERS) {
        return fail("an unexpected number of sessions");
    }
    if (!close_session() || open_session(PEERS) == NULL) {
        return fail("a session that left made no room");
    }
    sessions->bytes_transferred += 1400;
    printf("%s: session %u, %llu bytes\n", sessions->remote_ip, sessions->session_id,
           (unsigned long long)sessions->bytes_transferred);

    while (sessions != NULL) {
        if (!close_session()) {
            return fail("our own session");
        }
    }
    memory_pool_print_stats(pool);
    memory_pool_destroy(pool);
    return 0;
}
