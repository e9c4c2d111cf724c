/* Network packets: a receive thread allocates them in bursts, a transmit thread frees them, and
 * neither takes a lock for a packet. */
#include "memory_pool.h"

#include <pthread.h>
#include <stdlib.h>

enum { BURST = 32, BURSTS = 10000, RING = 64 };

typedef struct {
    uint32_t packet_id;
    uint16_t length;
    char data[1500];
} network_packet_t;

typedef struct {
    network_packet_t *packets[BURST];
} burst_t;

/* Bursts on their way from one thread to the other. */
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    burst_t bursts[RING];
    unsigned sent, received;
} ring = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, {{{NULL}}}, 0, 0};

static memory_pool_t *pool;
static int packets;

static void fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, memory_pool_error_string(memory_pool_get_last_error()));
    exit(1);
}

static void send(const burst_t *burst)
{
    pthread_mutex_lock(&ring.mutex);
    while (ring.sent - ring.received == RING) {
        pthread_cond_wait(&ring.changed, &ring.mutex);
    }
    ring.bursts[ring.sent++ % RING] = *burst;
    pthread_cond_signal(&ring.changed);
    pthread_mutex_unlock(&ring.mutex);
}

static burst_t receive(void)
{
    pthread_mutex_lock(&ring.mutex);
    while (ring.sent == ring.received) {
        pthread_cond_wait(&ring.changed, &ring.mutex);
    }
    burst_t burst = ring.bursts[ring.received++ % RING];
    pthread_cond_signal(&ring.changed);
    pthread_mutex_unlock(&ring.mutex);
    return burst;
}

static memory_pool_local_t *open_cache(void)
{
    memory_pool_local_t *cache = memory_pool_local_create(pool);
    if (cache == NULL) {
        fail("no local cache");
    }
    return cache;
}

/* Fills a burst with packets, as a network card would. */
static void arrive(memory_pool_local_t *cache, burst_t *burst, uint32_t first_id)
{
    void *slots[BURST];
    if (memory_pool_local_alloc_bulk(cache, packets, slots, BURST) != BURST) {
        fail("no packets");
    }
    for (uint32_t i = 0; i < BURST; i++) {
        network_packet_t *packet = slots[i];
        packet->packet_id = first_id + i;
        packet->length = (uint16_t)(64 + packet->packet_id % 1437);
        memset(packet->data, (int)(packet->packet_id & 0xFF), packet->length);
        burst->packets[i] = packet;
    }
}

static void *receive_thread(void *unused)
{
    memory_pool_local_t *cache = open_cache();
    for (uint32_t number = 0; number < BURSTS; number++) {
        burst_t burst;
        arrive(cache, &burst, number * BURST);
        send(&burst);
    }
    memory_pool_local_destroy(cache);
    return unused;
}

static void *transmit_thread(void *bytes)
{
    memory_pool_local_t *cache = open_cache();
    for (uint32_t number = 0; number < BURSTS; number++) {
        burst_t burst = receive();
        void *slots[BURST];
        for (uint32_t i = 0; i < BURST; i++) {
            const network_packet_t *packet = burst.packets[i];
            if (packet->packet_id != number * BURST + i) {
                fail("a packet is not what it was");
            }
            *(uint64_t *)bytes += packet->length;
            slots[i] = burst.packets[i];
        }
        if (memory_pool_local_free_bulk(cache, packets, slots, BURST) != BURST) {
            fail("our own packets");
        }
    }
    memory_pool_local_destroy(cache);
    return NULL;
}

static pthread_t start(void *(*work)(void *), void *argument)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, argument) != 0) {
        fail("no thread");
    }
    return thread;
}

int main(void)
{
    pool = memory_pool_create(64 * 1024 * 1024, true);
    if (pool == NULL) {
        fail("no pool");
    }
    packets = memory_pool_add_size_class(pool, sizeof(network_packet_t), 10000);
    if (packets < 0 || !memory_pool_warmup(pool)) {
        fail("no packets");
    }

    uint64_t bytes = 0;
    pthread_t receiver = start(receive_thread, NULL);
    pthread_t transmitter = start(transmit_thread, &bytes);
    pthread_join(receiver, NULL);
    pthread_join(transmitter, NULL);

    pool_stats_t stats;
    if (!memory_pool_get_stats(pool, &stats) || !memory_pool_validate(pool)) {
        fail("damaged");
    }
    printf("%d packets, %llu bytes, %zu leaked\n", BURST * BURSTS, (unsigned long long)bytes,
           stats.live_objects);
    memory_pool_destroy(pool);
    return stats.live_objects == 0 ? 0 : 1;
}
