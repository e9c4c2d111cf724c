#!/usr/bin/env bash
# What the pool adds to the start of a process: the time of many, in rounds that alternate.
#
#   ./startup.sh [PROGRAM...]      default: ls, which allocates a little

set -euo pipefail
library=$(cd "$(dirname "$0")" && pwd)/build/libmempool_preload.so
program=("${@:-ls}")
program[0]=$(type -P "${program[0]}") # not the shell's own true
starts=200

# many NAME=VALUE: prints the microseconds that a process takes
many() {
    local begin=$EPOCHREALTIME
    (
        export "${1:-NOTHING=}"
        for ((i = 0; i < starts; i++)); do "${program[@]}" >/dev/null; done
    )
    awk -v begin="$begin" -v end="$EPOCHREALTIME" -v starts=$starts \
        'BEGIN { printf "%.0f\n", (end - begin) / starts * 1e6 }'
}

for round in {1..9}; do
    echo "plain $(many "")"
    echo "pool $(many LD_PRELOAD="$library")"
done | sort -k1,1 -k2,2n | awk '
    { times[$1] = times[$1] " " $2 }
    END {
        split(times["plain"], plain); split(times["pool"], pool)
        printf "a process takes %d us, %d us on the pool: %d us more\n",
            plain[5], pool[5], pool[5] - plain[5]
    }'
