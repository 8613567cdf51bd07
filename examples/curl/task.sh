#!/bin/sh
# Shows a task as JSON: task.sh URL NUMBER
set -eu
curl --silent --show-error --fail-with-body "$1/v1/tasks/$2"
echo
