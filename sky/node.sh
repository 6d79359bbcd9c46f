# shellcheck shell=bash
# Sourced by the other scripts, from the bundle's folder: what they have in common.

# What a machine has to remember between setup, run and signals.
NODE=${STILLHOUSE_NODE:-$HOME/.stillhouse-node}
mkdir -p "$NODE"

# Where poweroff is, which the PATH of a person who is not root leaves out.
PATH=$PATH:${STILLHOUSE_SBIN:-/usr/sbin:/sbin}

say() { printf 'stillhouse: %s\n' "$*" >&2; }

# GPUs of this machine, 0 where there is no driver.
gpu_count() {
  command -v nvidia-smi >/dev/null || { echo 0; return; }
  nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}
