#!/usr/bin/env bash
# Tells Ray that AWS is about to reclaim this spot worker, two minutes before: trials write a checkpoint at their next
# step and continue elsewhere, and none starts here. cluster.yaml starts this on every worker after Ray, detached; a
# second one ends at once.
#
# spot_notice.sh ADDRESS_OF_THE_HEAD [seconds between looks]
set -u
address=$1 between=${2:-5}
service=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}

exec 9> "${TMPDIR:-/tmp}/spot-notice.lock"
flock --nonblock 9 || exit 0

ask() { curl --silent --fail --max-time 2 "$@"; }

while sleep "$between"; do
    token=$(ask --request PUT --header 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$service/latest/api/token") || continue
    notice=$(ask --header "X-aws-ec2-metadata-token: $token" "$service/latest/meta-data/spot/instance-action") || continue
    # RAY_ADDRESS, not --address: with that alone, Ray 2.60 starts a Ray of its own and drains it.
    RAY_ADDRESS=$address ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "$notice" \
        --deadline-remaining-seconds 100 && exit 0
done
