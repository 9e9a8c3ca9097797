#!/usr/bin/env bash
# Start an environment of the benchmark and wait until it serves: `deploy.sh baseline|managed`.
#
# More options: `deploy.sh --help`, such as --fleet l4, --engine simulator, --dry-run.
set -euo pipefail
cd "$(dirname "$0")/.."

exec ./pants run src/python/bench_environments -- deploy "$@"
