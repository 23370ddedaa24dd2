#!/bin/sh
# Checks channel.pml exhaustively with spin: `check.sh` the set for every test run (about a minute),
# `check.sh long` larger ones (some minutes, 4 GB). Then breaks the protocol in each way the model knows
# and demands that the check notices. Needs Debian's spin and gcc. The last line is
# "N passed, N failed".
set -u
model=$(dirname "$(readlink -f "$0")")/channel.pml
if ! command -v spin >/dev/null; then
    echo "FAIL spin is not installed: apt-get install spin"
    echo "0 passed, 1 failed"
    exit 1
fi
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
passed=0 failed=0

# verify KIND FLAGS...: KIND safety (assertions, nobody waits for ever) or progress (nobody runs in circles:
# every run of the model is finite, so any cycle is an error). Prints errors and states; 0 if none, 1 if some,
# 2 if the search could not be finished.
verify() {
    kind=$1
    shift
    options="-DSAFETY" run=""
    [ "$kind" = progress ] && options="-DNP" run="-l"
    spin -a "$@" "$model" >spin.out 2>&1 || { cat spin.out; return 2; }
    gcc -O2 $options -DCOLLAPSE -DMEMLIM=4000 -w pan.c -o pan || return 2
    ./pan $run -m1000000 -n >pan.out 2>&1
    errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' pan.out)
    states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' pan.out)
    [ "${errors:-none}" = 0 ] && grep -q "Search not completed" pan.out && return 2
    [ -n "$errors" ] || return 2
    [ "$errors" = 0 ]
}

holds() {
    verify "$@"
    case $? in
    0) echo "ok   $*: $states states"
        passed=$((passed + 1)) ;;
    1) echo "FAIL $*: $(grep -m1 '^pan:1' pan.out)"
        [ -f channel.pml.trail ] && spin -t -p "$@" "$model" 2>/dev/null | tail -40
        failed=$((failed + 1)) ;;
    *) echo "FAIL $*: the search was not finished"
        cat pan.out
        failed=$((failed + 1)) ;;
    esac
}

breaks() {
    verify "$@"
    if [ $? = 1 ]; then
        echo "ok   $*: noticed, $(grep -m1 '^pan:1' pan.out | sed 's/^pan:1: //')"
        passed=$((passed + 1))
    else
        echo "FAIL $*: the model does not notice"
        failed=$((failed + 1))
    fi
}

holds safety -DWORKERS=2 -DREQUESTS=2 -DDEATHS=1
holds safety -DWORKERS=2 -DREQUESTS=2 -DDEATHS=1 -DRESPAWN=0 -DSLOTS=1
holds safety -DWORKERS=1 -DREQUESTS=3 -DDEATHS=2
holds safety -DWORKERS=2 -DREQUESTS=2 -DDEATHS=0 -DGATEWAY_DIES=1
holds safety -DWORKERS=1 -DREQUESTS=2 -DDEATHS=1 -DGATEWAY_DIES=1
holds safety -DWORKERS=1 -DREQUESTS=3 -DDEATHS=1 -DCANCELS=1
holds safety -DWORKERS=2 -DREQUESTS=2 -DDEATHS=0 -DCANCELS=1
holds safety -DWORKERS=1 -DREQUESTS=4 -DDEATHS=1 -DCANCELS=2 -DCELLS=3 # the queue is packed
holds progress -DWORKERS=2 -DREQUESTS=1 -DDEATHS=1 -DSLOTS=1
holds progress -DWORKERS=1 -DREQUESTS=2 -DDEATHS=2 -DCANCELS=1
if [ "${1:-}" = long ]; then
    holds safety -DWORKERS=2 -DREQUESTS=3 -DDEATHS=1 -DSLOTS=1
    holds safety -DWORKERS=2 -DREQUESTS=3 -DDEATHS=0 -DCANCELS=1
    holds safety -DWORKERS=2 -DREQUESTS=2 -DDEATHS=1 -DCANCELS=1
    holds safety -DWORKERS=2 -DREQUESTS=4 -DDEATHS=0 -DCANCELS=2 -DCELLS=3 -DANSWER=1
    holds progress -DWORKERS=2 -DREQUESTS=2 -DDEATHS=1
fi

breaks safety -DDEATHS=0 -DBREAK_SECOND_LOOK   # a worker sleeps without looking at the queue again
breaks safety -DDEATHS=0 -DBREAK_SLEEP_LOOK    # the gateway sleeps without looking at the dirty bits
breaks safety -DDEATHS=0 -DBREAK_SPACE_LOOK    # a blocked worker does not look at the head again
breaks safety -DDEATHS=0 -DBREAK_SPACE_WAKE    # the gateway does not wake a blocked worker
breaks safety -DRESPAWN=0 -DSLOTS=1 -DBREAK_RECOVERY_WAKE # a wake-up is not passed on
breaks safety -DWORKERS=1 -DREQUESTS=4 -DDEATHS=0 -DCANCELS=2 -DCELLS=3 -DBREAK_PACK # turns on
breaks progress -DREQUESTS=1 -DSLOTS=1 -DBREAK_HELP       # only the claimer moves the head

echo "$passed passed, $failed failed"
[ $failed = 0 ]
