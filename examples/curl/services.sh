#!/bin/sh
# Shows who serves what, as JSON: services.sh [URL]
set -eu
url=${1:-http://127.0.0.1:8080}

curl --silent --show-error --fail "$url/v1/services"
echo
curl --silent --show-error --fail "$url/v1/workers"
echo
