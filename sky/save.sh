#!/usr/bin/env bash
# Asks the work on this machine to save and end. Nothing happens where none runs.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=sky/node.sh
. sky/node.sh

[ -f "$NODE/work" ] || exit 0
read -r kind pid <"$NODE/work"
asked=$pid
# Its processes are asked and not torchrun itself, which would kill them 30 s after it was asked:
# saving a large model takes longer.
if [ "$kind" = workers ]; then asked=$(cat "/proc/$pid/task/$pid/children" 2>/dev/null || true); fi
for one in $asked; do kill -TERM "$one" 2>/dev/null || true; done
