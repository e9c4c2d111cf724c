#!/usr/bin/env bash
# Runs the benchmarks' programs in short rounds that alternate, and prints medians and ratios.
#
#   ./bench.sh shared|malloc|dpdk...

set -euo pipefail
cd "$(dirname "$0")"
rounds=${ROUNDS:-25}

# report ONE: reads "what who nanoseconds" lines. A table of medians, how many times as long as the
# one named ONE each takes, and who is fastest.
report() {
    sort -k1,1 -k2,2 -k3,3n | awk -v one="$1" '
        function finish() {
            if (count) median[what, who] = times[int((count + 1) / 2)]
            count = 0
        }
        $1 != what || $2 != who { finish() }
        !seen_what[$1]++ { whats[++number_of_whats] = $1 }
        !seen_who[$2]++ { whos[++number_of_whos] = $2 }
        { what = $1; who = $2; times[++count] = $3 }
        END {
            finish()
            printf "%-18s", ""
            for (w = 1; w <= number_of_whos; w++) printf "%18s", whos[w]
            print "   fastest"
            for (i = 1; i <= number_of_whats; i++) {
                printf "%-18s", whats[i]
                fastest = ""
                for (w = 1; w <= number_of_whos; w++) {
                    time = median[whats[i], whos[w]]
                    printf "%9.2f (%5.2fx)", time, time / median[whats[i], one]
                    if (fastest == "" || time < median[whats[i], fastest]) fastest = whos[w]
                }
                print "   " fastest
            }
        }'
}

# as WHO PROGRAM...: one round of it
as() {
    local who=$1
    shift
    env "$@" | awk -v who="$who" '{ print $1, who, $2 }'
}

# in_rounds FUNCTION: calls it again and again
in_rounds() {
    local round
    for ((round = 0; round < rounds; round++)); do "$1"; done
}

shared_round() {
    as static build/pair-static
    as shared build/pair-shared
}

bench_shared() {
    echo "Shared library and static one: a block from allocation to free"
    in_rounds shared_round | report shared
}

# Each as it likes best: none gives memory back to the system in between.
mallocs=(
    "jemalloc libjemalloc.so.2 MALLOC_CONF=dirty_decay_ms:-1,muzzy_decay_ms:-1"
    "mimalloc libmimalloc.so.2.0 MIMALLOC_PAGE_RESET=0"
    "tcmalloc libtcmalloc_minimal.so.4 TCMALLOC_RELEASE_RATE=0"
)

malloc_round() {
    local name library setting
    as pool build/pair-shared
    as glibc GLIBC_TUNABLES=glibc.malloc.trim_threshold=4294967296 build/pair-malloc
    for malloc in "${installed[@]}"; do
        read -r name library setting <<<"$malloc"
        as "$name" LD_PRELOAD="$library" "$setting" build/pair-malloc
    done
}

# Whether the loader finds a library: it only warns if not.
is_installed() { [ -z "$(LD_PRELOAD=$1 env true 2>&1)" ]; }

bench_malloc() {
    local malloc name library installed=()
    echo "The pool (shared library) and mallocs: a block from allocation to free"
    for malloc in "${mallocs[@]}"; do
        read -r name library _ <<<"$malloc"
        if is_installed "$library"; then
            installed+=("$malloc")
        else
            echo "$name: not measured, no $library"
        fi
    done
    in_rounds malloc_round | report pool
}

bulk_round() { build/bulk; }

bench_dpdk() {
    echo "Local cache and rte_mempool: an object from get to put, in bulks of 32"
    rounds=5 in_rounds bulk_round >build/bulk.out
    grep -q dpdk build/bulk.out || echo "dpdk: not measured, pkg-config finds no libdpdk"
    report pool <build/bulk.out
}

echo "$(nproc) cores of $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)," \
    "medians of $rounds rounds, ns; ratios to the pool, above 1 is slower"
for benchmark in "$@"; do "bench_$benchmark"; done
