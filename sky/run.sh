#!/usr/bin/env bash
# Runs the worker on this machine, together with those on the other nodes, one process a GPU. Ends
# with the worker's exit code, and then leaves the machine only minutes to live.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=sky/node.sh
. sky/node.sh

folder=${STILLHOUSE_RUN_DIR:-run}
python=$(cat "$NODE/python")
gpus=$(gpu_count)
nodes=${SKYPILOT_NUM_NODES:-1}
promised=${SKYPILOT_NUM_GPUS_PER_NODE:-0}
processes=$((gpus > 0 ? gpus : 1))
export PYTHONUNBUFFERED=1
# A machine that is busy starting may be slow to give its role's keys; boto3 asks once, for a second.
export AWS_METADATA_SERVICE_TIMEOUT=5 AWS_METADATA_SERVICE_NUM_ATTEMPTS=5

# Without any GPU the worker runs on the processor, as it does at home.
if [ "$gpus" -gt 0 ] && [ "$gpus" -lt "${promised%.*}" ]; then
  say "only $gpus of $promised GPUs are there: this machine is broken"
  exit 1
fi

if [ $((nodes * processes)) = 1 ]; then
  kind=worker
  command=("$python" -m distill "$folder")
else
  kind=workers
  command=("$python" -m torch.distributed.run
    "--nnodes=$nodes" "--nproc-per-node=$processes" "--node-rank=${SKYPILOT_NODE_RANK:-0}"
    "--master-addr=$(head -n 1 <<<"${SKYPILOT_NODE_IPS:-127.0.0.1}")" --master-port=29500
    -m distill "$folder")
fi

"${command[@]}" &
work=$!
echo "$kind $work" >"$NODE/work"
notice=
if [ "${STILLHOUSE_SPOT:-false}" = true ]; then
  bash sky/spot_notice.sh "$folder" &
  notice=$!
fi
trap 'bash sky/save.sh' TERM INT

# A signal ends `wait` before the work has ended; the last one tells how it did.
wait "$work" || true
while kill -0 "$work" 2>/dev/null; do wait "$work" || true; done
code=0
wait "$work" || code=$?
rm -f "$NODE/work"
[ -z "$notice" ] || kill "$notice" 2>/dev/null || true
bash sky/limit.sh lower "${STILLHOUSE_LINGER_MINUTES:-1}" || true
# Whoever settles the bill when the cloud has forgotten this machine finds there when it went.
if [ -f "$NODE/armed" ]; then
  "$python" -m distill leaving "$folder" "${SKYPILOT_NODE_RANK:-0}" "$(cat "$NODE/armed")" || true
fi
say "the worker ended with $code"
exit "$code"
