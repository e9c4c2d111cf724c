#!/usr/bin/env bash
# What needs no programs but our own: malloc's semantics, little address space, and misuse.

set -euo pipefail
cd "$(dirname "$0")/build"
library=$PWD/libmempool_preload.so

echo "semantics of malloc: without the pool, on it, and in 2 GiB of address space"
./semantics
LD_PRELOAD=$library ./semantics
(ulimit -v 2097152 && LD_PRELOAD=$library ./semantics)

echo "misuse: refused, and reported once of each kind"
rm -f misuse.stats
LD_PRELOAD=$library MEMPOOL_PRELOAD_REPORT=1 MEMPOOL_PRELOAD_STATS=misuse.stats \
    ./misuse 2>misuse.err
cat misuse.err
[ "$(wc -l <misuse.err)" = 3 ]
grep -q 'refused=7 foreign=3$' misuse.stats
