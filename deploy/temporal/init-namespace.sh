#!/bin/sh
# Creates the namespace and tierpool's search attributes. Safe to run again.
# The address comes from TEMPORAL_ADDRESS, as for every command of the CLI.
set -eu

: "${TEMPORAL_ADDRESS:?host:port of the Temporal server}"
namespace=${TEMPORAL_NAMESPACE:-default}
retention=${TEMPORAL_RETENTION:-72h}

attributes="
TierpoolFlow:Keyword
TierpoolState:Keyword
TierpoolRole:Keyword
TierpoolTier:Keyword
TierpoolCostUsd:Double
"

wait_for() {
  tries=0
  until "$@" >/dev/null 2>&1; do
    tries=$((tries + 1))
    if [ "$tries" -ge 60 ]; then
      echo "gave up after $tries tries: $*" >&2
      "$@"
      return 1
    fi
    sleep 1
  done
}

wait_for temporal operator cluster health
temporal operator namespace describe -n "$namespace" >/dev/null 2>&1 ||
  temporal operator namespace create -n "$namespace" --retention "$retention"

# A new namespace is "not found" for a second or more: the server caches names.
wait_for temporal operator search-attribute list -n "$namespace"
known=$(temporal operator search-attribute list -n "$namespace")
for pair in $attributes; do
  name=${pair%%:*}
  echo "$known" | grep -qw "$name" ||
    temporal operator search-attribute create -n "$namespace" --name "$name" --type "${pair##*:}"
done
echo "namespace $namespace is ready"
