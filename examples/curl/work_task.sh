#!/bin/sh
# Waits for one task of type `upper` and does it: work_task.sh [URL]
set -eu
url=${1:-http://127.0.0.1:8080}

answer=$(curl --silent --show-error --fail-with-body "$url/v1/leases" \
    --data '{"types": ["upper"], "wait_ms": 20000, "lease_ms": 30000, "worker": "work_task.sh"}')

# With jq at hand: jq -r '.leases[0].token'
field() {
    printf '%s' "$answer" | sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",}]*\).*/\1/p"
}
token=$(field token)
result=$(field payload | tr a-z A-Z)
curl --silent --show-error --fail-with-body --output /dev/null \
    --data-binary "$result" "$url/v1/leases/$token/complete"
echo "task $(field id): $result"
