#!/usr/bin/env bash
# Runs real programs without the pool and on it, and compares what they put out, byte for byte.
#
#   ./run-programs.sh            all programs
#   ./run-programs.sh PROGRAM... these: sqlite redis nginx python git
#
# QUICK=1 does less of the same. A program fails if its output or exit status differs, if one of its
# processes was not on the pool, or if the pool refused a free or a request.

set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
library=$here/build/libmempool_preload.so
programs=(sqlite redis nginx python git)
quick=${QUICK:+1}

# full_or_quick FULL QUICK
full_or_quick() { [ -n "$quick" ] && echo "$2" || echo "$1"; }

# under PROGRAM...: runs it, in the second round on the pool. The script itself never is.
under() { env "${environment[@]}" "$@"; }

# until_true COMMAND...: for at most ten seconds
until_true() {
    local tries
    for ((tries = 0; tries < 200; tries++)); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.05
    done
    echo "still not so after ten seconds: $*"
    return 1
}

# --- Programs: each leaves what is to be compared in out/ -----------------------------------------

need_sqlite=sqlite3
run_sqlite() {
    awk -v rows="$(full_or_quick 100000 20000)" -f "$here/programs/sqlite.awk" >session.sql
    under sqlite3 flows.db <session.sql >out/answers
    cp flows.db out/
}

need_redis=redis-server
run_redis() {
    local cli=(redis-cli -s "$PWD/socket")
    under redis-server --port 0 --unixsocket "$PWD/socket" --dir "$PWD" --save "" \
        --enable-debug-command yes >log &
    local server=$!
    until_true "${cli[@]}" ping

    redis-benchmark -s "$PWD/socket" -q -P 16 -r 100000 -n "$(full_or_quick 400000 60000)" \
        -t set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd,zpopmin,lrange_100,mset >benchmark &
    local benchmark=$!
    sleep 0.5
    save_redis
    wait $benchmark
    "${cli[@]}" FLUSHALL >/dev/null

    awk -v keys="$(full_or_quick 50000 10000)" -f "$here/programs/redis.awk" >commands
    "${cli[@]}" <commands >out/replies
    "${cli[@]}" DBSIZE >out/dbsize
    "${cli[@]}" DEBUG DIGEST >out/digest
    save_redis
    "${cli[@]}" DEBUG RELOAD >out/reload
    "${cli[@]}" DEBUG DIGEST >>out/digest
    redis-check-rdb dump.rdb | grep -o 'RDB looks OK.*\|.*keys read' >out/check
    "${cli[@]}" SHUTDOWN NOSAVE
    wait $server
}

save_redis() {
    "${cli[@]}" BGSAVE >/dev/null
    until_true is_saved
    "${cli[@]}" INFO persistence | grep -o 'rdb_last_bgsave_status:.*' >>out/saved
}

is_saved() { "${cli[@]}" INFO persistence | grep -q rdb_bgsave_in_progress:0; }

need_nginx="nginx wrk curl"
run_nginx() {
    local port=$((20000 + RANDOM % 10000)) user=
    local url=http://127.0.0.1:$port
    [ "$(id -u)" != 0 ] || user="user root;"
    sed "s|@DIR@|$PWD|; s|@PORT@|$port|; s|@USER@|$user|" "$here/programs/nginx.conf.in" >nginx.conf
    mkdir www
    local file
    for file in {1..100}; do
        seq $((file * file)) >www/$file
    done

    under nginx -e error.log -c "$PWD/nginx.conf" &
    local server=$!
    until_true curl -fs "$url/1"
    wrk -t2 -c32 -d"$(full_or_quick 5 2)" -s "$here/programs/bodies.lua" "$url" >wrk
    grep -o 'Non-2xx.*\|Socket errors.*\|wrong bodies.*' wrk >out/wrk
    under nginx -e error.log -c "$PWD/nginx.conf" -s reload
    mkdir out/plain out/zipped out/proxied
    fetch "$url/[1-100]" -o "out/plain/#1"
    fetch --compressed "$url/[1-100]" -o "out/zipped/#1"
    fetch --compressed "$url/proxied/[1-100]" -o "out/proxied/#1"
    for file in plain zipped proxied; do diff -r www out/$file; done
    under nginx -e error.log -c "$PWD/nginx.conf" -s quit
    wait $server
    ! grep -v '\[notice\]' error.log
}

fetch() { curl -fsS --no-progress-meter --parallel "$@"; }

need_python=/usr/bin/python3
run_python() {
    local python=(under env PYTHONMALLOC=malloc PYTHONHASHSEED=1 /usr/bin/python3)
    "${python[@]}" "$here/programs/work.py" "$(full_or_quick 10 3)" >out/work
    if [ -n "$quick" ] || ! /usr/bin/python3 -c 'import test.test_json' 2>/dev/null; then return; fi
    "${python[@]}" -m test test_json test_re test_dict test_list test_bytes test_threading \
        test_thread test_fork1 test_subprocess test_queue test_zlib test_pickle >tests || true
    grep '^Tests result:\|^test.* failed$' tests >out/tests
}

need_git=git
run_git() {
    export GIT_AUTHOR_DATE="1700000000 +0000" GIT_COMMITTER_DATE="1700000000 +0000"
    export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
    export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
    local git=(under git -C repository) round file
    under git init -q -b main repository
    for round in 1 2 3; do
        for ((file = 0; file < $(full_or_quick 3000 800); file += round)); do
            mkdir -p repository/$((file % 50))
            seq $round $((file % 400 + 2)) >repository/$((file % 50))/$file
        done
        "${git[@]}" add -A
        "${git[@]}" commit -q -m "round $round"
    done
    "${git[@]}" log --stat -p >out/log
    "${git[@]}" gc -q --aggressive
    "${git[@]}" fsck --full --strict >out/fsck
    under git clone -q "file://$PWD/repository" clone
    "${git[@]}" blame 7/57 >out/blame
    under git -C clone log --format='%H %T' >out/clone
    "${git[@]}" grep -c 1 >out/grep
    under git -C clone fsck --full >>out/fsck
    diff -r -x .git repository clone
}

# --- Comparing -----------------------------------------------------------------------------------

# in_round NAME PROGRAM: runs the program in a directory of its own
in_round() {
    mkdir -p "$work/$1/out"
    cd "$work/$1"
    "run_$2"
}

# Every process that ended in the ordinary way has left a line.
stats_are_good() {
    awk '
        { for (i = 1; i <= NF; i++) { split($i, pair, "="); value[pair[1]] = pair[2] } }
        { processes++; bad += value["peak_bytes"] == 0 || value["refused"] || value["failures"] }
        value["peak_bytes"] > peak { peak = value["peak_bytes"] }
        { foreign += value["foreign"] }
        END {
            printf "%d processes on the pool, at most %.1f MiB, %d frees of the loader'\''s blocks, ",
                processes, peak / 1048576, foreign
            print bad ? bad " WITH REFUSALS OR FAILURES" : "none refused"
            exit !processes || bad
        }' "$1"
}

compare() {
    local program=$1
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    environment=()
    time_of plain in_round plain "$program"
    environment=(LD_PRELOAD="$library" MEMPOOL_PRELOAD_STATS="$work/stats" MEMPOOL_PRELOAD_REPORT=1)
    time_of pool in_round pool "$program"
    stats_are_good "$work/stats"
    diff -rq "$work/plain/out" "$work/pool/out"
    echo "$program: same output"
}

# time_of WHAT COMMAND...: its seconds, in a subshell so that its directory and exports end with it
time_of() {
    local what=$1 start=$EPOCHREALTIME
    shift
    ("$@")
    awk -v what="$what" -v start="$start" -v end="$EPOCHREALTIME" \
        'BEGIN { printf "%s: %.1f s\n", what, end - start }'
}

wanted=("$@")
[ $# -gt 0 ] || wanted=("${programs[@]}")
failed=0
for program in "${wanted[@]}"; do
    need=need_$program
    for command in ${!need}; do
        if ! command -v "$command" >/dev/null; then
            echo "$program: no $command"
            failed=1
            continue 2
        fi
    done
    echo "--- $program"
    # In a subshell of its own, and not as a condition, so that its first failure ends it.
    set +e
    (set -e && compare "$program")
    status=$?
    set -e
    if [ $status != 0 ]; then
        echo "$program: FAILED"
        failed=1
    fi
done
exit $failed
