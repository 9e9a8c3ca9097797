#!/usr/bin/env bash
# Stop and remove an environment of the benchmark: `teardown.sh baseline|managed|all`.
#
# The models that it downloaded stay, unless told otherwise: `teardown.sh --help`.
set -euo pipefail
cd "$(dirname "$0")/.."

exec ./pants run src/python/bench_environments -- teardown "$@"
