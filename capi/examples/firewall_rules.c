/* Firewall rules, in a pool for one thread: rules as slots of a class, and an index of them that
 * grows from the heap. */
#include "memory_pool.h"

enum { RULES = 100000, ACCEPT = 0, DROP = 1 };

typedef struct {
    uint32_t rule_id;
    char src_ip[16];
    char dst_ip[16];
    uint16_t port;
    uint8_t action;
} firewall_rule_t;

typedef struct {
    firewall_rule_t **rules;
    size_t count, room;
} rule_table_t;

static memory_pool_t *pool;

static int fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, memory_pool_error_string(memory_pool_get_last_error()));
    return 1;
}

/* Makes the index larger, where it is if the memory behind it is free. */
static bool grow(rule_table_t *table)
{
    size_t room = table->room == 0 ? 64 : 2 * table->room;
    void *larger = memory_pool_realloc(pool, table->rules, room * sizeof(firewall_rule_t *));
    if (larger == NULL) {
        return false;
    }
    table->rules = larger;
    table->room = room;
    return true;
}

static bool add_rule(rule_table_t *table, uint32_t id)
{
    if (table->count == table->room && !grow(table)) {
        return false;
    }
    firewall_rule_t *rule = memory_pool_alloc_fixed(pool, sizeof *rule);
    if (rule == NULL) {
        return false;
    }
    rule->rule_id = id;
    snprintf(rule->src_ip, sizeof rule->src_ip, "10.%u.%u.%u", id >> 16 & 0xFF, id >> 8 & 0xFF,
             id & 0xFF);
    strcpy(rule->dst_ip, "192.0.2.1");
    rule->port = 443;
    rule->action = id % 10 == 0 ? DROP : ACCEPT;
    table->rules[table->count++] = rule;
    return true;
}

static const firewall_rule_t *match(const rule_table_t *table, const char *src, const char *dst,
                                    uint16_t port)
{
    for (size_t i = 0; i < table->count; i++) {
        const firewall_rule_t *rule = table->rules[i];
        if (rule->port == port && strcmp(rule->src_ip, src) == 0 &&
            strcmp(rule->dst_ip, dst) == 0) {
            return rule;
        }
    }
    return NULL;
}

int main(void)
{
    pool = memory_pool_create(16 * 1024 * 1024, false);
    if (pool == NULL || memory_pool_add_size_class(pool, sizeof(firewall_rule_t), RULES) < 0) {
        return fail("no pool");
    }
    rule_table_t table = {NULL, 0, 0};
    for (uint32_t id = 0; id < RULES; id++) {
        if (!add_rule(&table, id)) {
            return fail("no more rules");
        }
    }
    const firewall_rule_t *rule = match(&table, "10.0.3.232", "192.0.2.1", 443);
    if (rule == NULL || rule->rule_id != 1000 || rule->action != DROP) {
        return fail("the wrong rule");
    }
    printf("rule %u of %zu: %s:%u is dropped\n", rule->rule_id, table.count, rule->src_ip,
           rule->port);

    if (!memory_pool_validate(pool) || !memory_pool_print_stats(pool)) {
        return fail("damaged");
    }
    /* A new set of rules begins from nothing, in one call. */
    if (!memory_pool_reset(pool)) {
        return fail("no reset");
    }
    memory_pool_destroy(pool);
    return 0;
}
