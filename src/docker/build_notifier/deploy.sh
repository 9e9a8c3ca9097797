#!/usr/bin/env bash
# Deploy the notifier as a Cloud Run function on Cloud Build's topic: `deploy.sh IMAGE [NAME=VALUE...]`.
#
# Values are the function's settings; GEMINI_API_KEY and WEBHOOK_URL are read from secrets of these names.
set -euo pipefail

image=${1:?usage: deploy.sh IMAGE [NAME=VALUE...]}
shift
: "${PROJECT:?set PROJECT to the Google Cloud project}" "${REGION:=us-central1}"
: "${SERVICE:=build-notifier}" "${ACCOUNT:=build-notifier@$PROJECT.iam.gserviceaccount.com}"

secrets=()
for name in GEMINI_API_KEY WEBHOOK_URL; do
  if gcloud secrets describe "$name" --project "$PROJECT" >/dev/null 2>&1; then
    secrets+=("--update-secrets=$name=$name:latest")
  fi
done
values=()
bucket=
instances=1
for pair in "$@"; do
  [[ $pair == *=* ]] || { echo "deploy: $pair is not NAME=VALUE" >&2; exit 2; }
  case ${pair%%=*} in GEMINI_API_KEY | WEBHOOK_URL)
    echo "deploy: ${pair%%=*} is a secret: gcloud secrets create ${pair%%=*} --data-file=-" >&2; exit 2 ;;
  esac
  if [[ ${pair%%=*} == CLAIM_BUCKET ]]; then
    bucket=${pair#*=}
    instances=${MAX_INSTANCES:-4}
  fi
  values+=("--update-env-vars=$pair")
done

# One instance, unless CLAIM_BUCKET=... gives instances a bucket to claim builds in before they report them.
# Cloud Run may start one more for a moment, and an instance may be replaced: only a bucket is safe then.
# A report takes at most 30 s for the log, 30 s for Gemini, 10 s for the webhook and Google's calls.
gcloud run deploy "$SERVICE" --project "$PROJECT" --region "$REGION" --image "$image" \
  --no-allow-unauthenticated --service-account "$ACCOUNT" --max-instances "$instances" --concurrency 64 \
  --timeout 300 \
  "${values[@]}" "${secrets[@]}"

# Reads builds' logs, writes its own entries, asks Gemini.
for role in roles/logging.viewer roles/logging.logWriter roles/aiplatform.user; do
  gcloud projects add-iam-policy-binding "$PROJECT" --condition None --quiet \
    --member "serviceAccount:$ACCOUNT" --role "$role" >/dev/null
done
if [[ -n $bucket ]]; then
  gcloud storage buckets add-iam-policy-binding "gs://${bucket%%/*}" \
    --member "serviceAccount:$ACCOUNT" --role roles/storage.objectUser >/dev/null
fi
gcloud run services add-iam-policy-binding "$SERVICE" --project "$PROJECT" --region "$REGION" \
  --member "serviceAccount:$ACCOUNT" --role roles/run.invoker
gcloud pubsub topics create cloud-builds --project "$PROJECT" 2>/dev/null || true
gcloud eventarc triggers describe "$SERVICE" --project "$PROJECT" --location "$REGION" \
  >/dev/null 2>&1 ||
  gcloud eventarc triggers create "$SERVICE" --project "$PROJECT" --location "$REGION" \
    --destination-run-service "$SERVICE" --destination-run-region "$REGION" \
    --event-filters type=google.cloud.pubsub.topic.v1.messagePublished \
    --transport-topic cloud-builds --service-account "$ACCOUNT"

# Eventarc's subscription delivers again after 10 s unless told otherwise: longer than any report takes,
# and patient with a webhook that is down.
subscription=$(gcloud eventarc triggers describe "$SERVICE" --project "$PROJECT" \
  --location "$REGION" --format 'value(transport.pubsub.subscription)')
gcloud pubsub subscriptions update "$subscription" --project "$PROJECT" --ack-deadline 360 \
  --min-retry-delay 10s --max-retry-delay 600s
