#!/usr/bin/env bash
# Makes a rented machine ready for the worker; may be run again at any time. Takes a Python that the
# image has, if the worker can run on it, and makes an environment where none is there.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=sky/node.sh
. sky/node.sh

# Before anything that takes time or may fail.
bash sky/limit.sh set "${STILLHOUSE_LIMIT_MINUTES:?is missing}"
# Money runs out at a moment, however long the machine took to come here. The minutes above hold where
# its clock is wrong.
[ -z "${STILLHOUSE_LIMIT_AT:-}" ] || bash sky/limit.sh by "$STILLHOUSE_LIMIT_AT"

PATH=$HOME/.local/bin:$PATH
own=$HOME/stillhouse-env
gpus=$(gpu_count)

# Whether the worker can run on a Python; if not, says why. Imports torch only where there are GPUs to
# count: seconds, but what it reads from the disk the worker need not read again.
fits() {
  "$1" - "$gpus" <<'EOF'
import importlib.util
import sys
from importlib.metadata import version

gpus = int(sys.argv[1])
if sys.version_info < (3, 11):
    sys.exit("older than Python 3.11")
for name in ("boto3", "datasets", "httpx", "jinja2", "pyarrow", "pydantic", "torch", "transformers"):
    if importlib.util.find_spec(name) is None:
        sys.exit(f"without {name}")
if int(version("transformers").split(".")[0]) < 5:
    sys.exit(f"transformers {version('transformers')}, and 5 is needed")
if gpus:
    import torch

    if torch.cuda.device_count() != gpus:
        sys.exit(f"torch {torch.__version__} sees {torch.cuda.device_count()} of {gpus} GPUs")
EOF
}

find_python() {
  local candidate python why
  for candidate in "$own/bin/python" python3 python /opt/stillhouse/bin/python \
    /opt/pytorch/bin/python /opt/conda/bin/python; do
    python=$(command -v "$candidate") || continue
    if why=$(fits "$python" 2>&1); then
      echo "$python"
      return
    fi
    say "not $python: $(tail -n 1 <<<"$why")"
  done
  return 1
}

make_environment() {
  say "making an environment at $own"
  command -v uv >/dev/null || python3 -m pip install --user --quiet uv
  [ -x "$own/bin/python" ] || uv venv --quiet --python 3.11 "$own"
  uv pip install --quiet --python "$own/bin/python" -r sky/requirements.txt -c constraints.txt
}

if ! python=$(find_python); then
  make_environment
  if ! why=$(fits "$own/bin/python" 2>&1); then
    say "the worker cannot run on this machine: $(tail -n 1 <<<"$why")"
    exit 1
  fi
  python=$own/bin/python
fi
echo "$python" >"$NODE/python"
say "the worker runs on $python, with $gpus GPUs"
