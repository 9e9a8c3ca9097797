#!/usr/bin/env bash
# Measure every model of an environment in turn: `benchmark_all_models.sh ENV [CONCURRENCY [REQUESTS]]`,
# ENV baseline or managed, 10 and 100 where nothing is said.  Results: results/ENV.
set -euo pipefail
cd "$(dirname "$0")/.."

exec ./pants run src/python/bench:runner -- all-models "$@"
