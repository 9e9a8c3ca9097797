#!/usr/bin/env bash
# Measure one model of an environment: `genai_perf_runner.sh ENV MODEL [CONCURRENCY [REQUESTS]]`, ENV
# baseline or managed, 10 and 100 where nothing is said.
#
# Takes the arguments of genai-perf, which is no longer maintained: servekit's client sends the load
# and writes profile_export.csv and .json below results/ENV.  Further options are the client's.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ $# -lt 2 || $1 == -* || $2 == -* ]]; then
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
environment=$1 model=$2
shift 2
concurrency=10 requests=100
for name in concurrency requests; do
  if [[ $# -gt 0 && $1 != -* ]]; then
    printf -v "$name" '%s' "$1"
    shift
  fi
done

exec ./pants run src/python/bench:runner -- run \
  --env "$environment" --model "$model" --concurrency "$concurrency" --request-count "$requests" \
  --workload synthetic --endpoint-type chat --streaming \
  --synthetic-input-tokens-mean 512 --synthetic-input-tokens-stddev 128 \
  --output-tokens-mean 256 --output-tokens-stddev 64 "$@"
