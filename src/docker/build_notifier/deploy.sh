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
for pair in "$@"; do
  [[ $pair == *=* ]] || { echo "deploy: $pair is not NAME=VALUE" >&2; exit 2; }
  case ${pair%%=*} in GEMINI_API_KEY | WEBHOOK_URL)
    echo "deploy: ${pair%%=*} is a secret: gcloud secrets create ${pair%%=*} --data-file=-" >&2; exit 2 ;;
  esac
  values+=("--update-env-vars=$pair")
done

# One instance: it claims a build before it reports it, and instances know nothing of one another.
# A report takes at most 30 s for the log, 30 s for Gemini, 10 s for the webhook and Google's calls.
gcloud run deploy "$SERVICE" --project "$PROJECT" --region "$REGION" --image "$image" \
  --no-allow-unauthenticated --service-account "$ACCOUNT" --max-instances 1 --concurrency 64 \
  --timeout 300 \
  "${values[@]}" "${secrets[@]}"

# Reads builds' logs, writes its own entries, asks Gemini.
for role in roles/logging.viewer roles/logging.logWriter roles/aiplatform.user; do
  gcloud projects add-iam-policy-binding "$PROJECT" --condition None --quiet \
    --member "serviceAccount:$ACCOUNT" --role "$role" >/dev/null
done
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
