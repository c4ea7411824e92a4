#!/bin/bash
# Hand a training run to a Ray cluster that is there, from any machine: docs/cluster_jobs.md.
#
#   RAY_API_SERVER_ADDRESS=http://head:8265 scripts/cluster/submit.sh ether_12 ppo --name ether-12-ppo
#
# What is given goes to `offload-rllib train`. OFFLOAD_STORAGE names the folder or address that all nodes see.
# `ray` takes the cluster's token from RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token, and sends it with each request.
set -euo pipefail

: "${RAY_API_SERVER_ADDRESS:?the address of the dashboard of the cluster, e.g. http://head:8265}"
: "${OFFLOAD_STORAGE:?a folder or an address (s3://...) that all nodes of the cluster see}"
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}

# OFFLOAD_RUNTIME_ENV: a file as runtime_env.yaml beside this one, for a cluster where the package is not installed.
options=()
if [[ -n ${OFFLOAD_RUNTIME_ENV:-} ]]; then
    options+=(--runtime-env "$OFFLOAD_RUNTIME_ENV")
fi
exec ray job submit ${options[@]+"${options[@]}"} --no-wait -- \
    python -m offload_rllib train "$@" --address auto --storage "$OFFLOAD_STORAGE" --or-resume
