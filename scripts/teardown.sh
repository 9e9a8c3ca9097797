#!/usr/bin/env bash
# Stop and remove an environment of the benchmark: `teardown.sh baseline|managed|all`.
#
# Downloaded models are kept; --remove-model-cache removes them too.
set -euo pipefail
cd "$(dirname "$0")/.."

exec ./pants run src/python/bench_environments -- teardown "$@"
