#!/usr/bin/env bash
# Ends a worker whose Ray has been gone for ten minutes, so that it costs no more: with the head, the autoscaler is gone
# that would have ended it. cluster.yaml starts this on every worker after Ray; a second one ends at once.
#
# worker_watchdog.sh [seconds between looks] [name of Ray's process]
set -u
between=${1:-60} process=${2:-raylet}

exec 9> "${TMPDIR:-/tmp}/worker-watchdog.lock"
flock --nonblock 9 || exit 0

missing=0
while sleep "$between"; do
    if pgrep --exact "$process" > /dev/null; then missing=0; else missing=$((missing + 1)); fi
    if [ "$missing" -ge 10 ]; then
        exec sudo shutdown --poweroff now
    fi
done
