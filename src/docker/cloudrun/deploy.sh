#!/usr/bin/env bash
# Build, push, deploy and test with Cloud Build: `deploy.sh [_NAME=VALUE...]`, as in cloudbuild.yaml.
set -euo pipefail
cd "$(dirname "$0")/../../.."

for pair in "$@"; do
  case $pair in
    *TOKEN* | *SECRET*)
      echo "deploy: $pair: substitutions are logged; keep tokens in Secret Manager" >&2
      exit 2
      ;;
    _*=*) ;;
    *)
      echo "deploy: $pair is not _NAME=VALUE" >&2
      exit 2
      ;;
  esac
done

given=$(IFS=,; echo "$*")
exec gcloud builds submit --config src/docker/cloudrun/cloudbuild.yaml \
  ${given:+"--substitutions=$given"} .
