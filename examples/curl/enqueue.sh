#!/bin/sh
# Enqueues a task of type `upper` and prints its number: enqueue.sh [URL]
set -eu
url=${1:-http://127.0.0.1:8080}

# --fail-with-body: a refusal is a failure, and its reason is shown.
curl --silent --show-error --fail-with-body --data hello "$url/v1/tasks/upper" |
    sed 's/.*"id": *\([0-9]*\).*/\1/'
