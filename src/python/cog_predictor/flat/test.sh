#!/usr/bin/env bash
# Build this folder with Cog, and ask what was built:
#   ./test.sh [WEIGHTS_URL]
# Needs Docker, a GPU, and the `cog` command.  The tests want no CUDA graphs, and so another
# predictor_config.json: they run in a copy of the folder, which leaves this one as it is however
# they end, by SIGKILL too.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

command -v cog >/dev/null || { echo "test.sh: cog is not on the PATH; see https://cog.run" >&2; exit 1; }

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
cp -R "$here/." "$copy"
cd "$copy"

python3 - predictor_config.json <<'PYTHON'
import json
import pathlib
import sys

path = pathlib.Path(sys.argv[1])
config = json.loads(path.read_text())
config.setdefault("engine_args", {})["enforce_eager"] = True
path.write_text(json.dumps(config, indent=2))
PYTHON

weights=${1:-https://weights.replicate.delivery/default/vllm/pythia-70m.tar}
ask() { cog run -e "COG_WEIGHTS=$weights" "$@"; }

answer=$(ask -i prompt="Once upon a time" -i max_tokens=8 -i seed=7)
[ -n "$answer" ] || { echo "test.sh: the prediction is empty" >&2; exit 1; }

again=$(ask -i prompt="Once upon a time" -i max_tokens=8 -i seed=7)
[ "$answer" = "$again" ] || { echo "test.sh: one seed gave two answers" >&2; exit 1; }

if refused=$(ask -i prompt="" 2>&1); then
  echo "test.sh: a blank prompt was answered" >&2
  exit 1
fi
grep -q E1001 <<<"$refused" || { echo "test.sh: a blank prompt is not E1001" >&2; exit 1; }

echo "test.sh: passed"
