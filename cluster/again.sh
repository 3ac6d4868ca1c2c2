#!/usr/bin/env bash
# Run a command again while it ends with 75, mmray's exit code for what may pass (a node lost, storage out of reach,
# another driver on the same output). Any other code, and 75 after the last try, is returned as it is.
#   again [TRIES [WAIT_S]] -- COMMAND …       10 tries, 60 s between them
set -uo pipefail

tries=10 wait_s=60
[ "${1:-}" = -- ] || { tries=${1:?usage: again [TRIES [WAIT_S]] -- COMMAND …}; shift; }
[ "${1:-}" = -- ] || { wait_s=${1:?usage: again [TRIES [WAIT_S]] -- COMMAND …}; shift; }
shift
child=0 asked=''

# A signal is for the command, once, also one that comes while it starts: what it is ended with is what it returns.
pass_on() {
    [ -z "$asked" ] || [ $child = 0 ] || kill -"$asked" $child 2>/dev/null
    [ $child = 0 ] || asked=''
}
trap 'asked=TERM; pass_on' TERM
trap 'asked=INT; pass_on' INT

for ((try = 1; ; try++)); do
    "$@" &
    child=$!
    pass_on
    wait $child
    code=$?
    while kill -0 $child 2>/dev/null; do # a signal ends the wait, not yet the command
        wait $child
        code=$?
    done
    child=0
    if [ $code != 75 ] || [ $try -ge $tries ]; then
        exit $code
    fi
    echo "again: exit code 75 (try again), try $try of $tries; next in $wait_s s" >&2
    for ((second = 0; second < wait_s; second++)); do
        [ -z "$asked" ] || exit 75
        sleep 1
    done
done
