#!/usr/bin/env bash
# Is the deployed service there, and does it answer?  Needs curl and jq.
#
# Finds the service by gcloud (SERVICE_NAME, REGION), or takes SERVICE_URL; TOKEN, or gcloud's own
# identity, where the service asks for one.
set -euo pipefail

SERVICE_NAME=${SERVICE_NAME:-vllm-gemma-3-1b-it}
REGION=${REGION:-us-central1}
MODEL_NAME=${MODEL_NAME:-google/gemma-3-1b-it}
PAUSE_S=${PAUSE_S:-10}

url=${SERVICE_URL:-}
[[ -n $url ]] ||
  url=$(gcloud run services describe "$SERVICE_NAME" --region "$REGION" --format 'value(status.url)')
url=${url%/}
token=${TOKEN:-}
if [[ -z $token && $url == *.run.app ]]; then
  token=$(gcloud auth print-identity-token)
fi

body=$(mktemp)
trap 'rm -f "$body"' EXIT

# Ask until somebody serves: 503 is an instance that starts, 000 one that does not listen yet.
ask() { # PATH SECONDS CURL_ARGS...
  local path=$1 limit=$2 status=000 attempt
  shift 2
  for attempt in 1 2 3 4 5; do
    ((attempt == 1)) || sleep "$PAUSE_S"
    # The header goes by a file descriptor: arguments are for everybody to see.
    status=$(curl --silent --output "$body" --write-out '%{http_code}' --max-time "$limit" \
      --header @<([[ -z $token ]] || echo "Authorization: Bearer $token") "$@" "$url$path") || true
    [[ $status == 503 || $status == 000 ]] || break
  done
  if [[ $status != 200 ]]; then
    echo "FAILED: $path answers $status: $(head -c 300 "$body")" >&2
    exit 1
  fi
}

ask /v1/models 30
jq --exit-status --arg name "$MODEL_NAME" 'any(.data[]; .id == $name)' "$body" >/dev/null ||
  { echo "FAILED: /v1/models does not list $MODEL_NAME" >&2; exit 1; }
echo "OK: $MODEL_NAME is served"

request=$(jq --null-input --arg model "$MODEL_NAME" \
  '{model: $model, prompt: "Why is the sky blue?", max_tokens: 50, temperature: 0.7}')
ask /v1/completions 60 --header 'Content-Type: application/json' --data "$request"
jq --exit-status '.choices[0].text | length > 0' "$body" >/dev/null ||
  { echo "FAILED: the completion is empty" >&2; exit 1; }
echo "OK: $(jq .usage.completion_tokens "$body") tokens"
