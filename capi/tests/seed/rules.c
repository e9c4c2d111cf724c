#include "seed.h"

int main(void)
{
#include "rules.inc"
    CHECK(rule_pool != NULL);
    CHECK(memory_pool_get_last_error() == POOL_OK);
    for (uint32_t id = 0; id < 100000; id++) {
        firewall_rule_t *rule =
            (firewall_rule_t *)memory_pool_alloc_fixed(rule_pool, sizeof(firewall_rule_t));
        CHECK(rule != NULL);
        rule->rule_id = id;
    }
    check_and_destroy(rule_pool);
    return 0;
}
