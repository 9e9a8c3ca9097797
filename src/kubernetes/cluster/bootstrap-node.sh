#!/usr/bin/env bash
# Bring this node into the cluster: bootstrap-node.sh [--dry-run]
#
# systemd runs it at every boot until it succeeds (prepare-node.sh).  Can be run again.  The control
# plane publishes in SSM's Parameter Store how to join and how to reach the cluster; workers wait for it.
#
#   NODE_ROLE           control-plane, worker or gpu-worker
#   ACCESS_PARAMETERS   prefix of the parameters: /llama-k8s-platform
#   AWS_REGION          us-east-1
set -euo pipefail
readonly PROGRAM=bootstrap-node
HERE=$(dirname "$0")
readonly HERE
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$HERE/common.sh"

readonly NODE_ROLE=${NODE_ROLE:-}
readonly ACCESS_PARAMETERS=${ACCESS_PARAMETERS:-}
readonly REGION=${AWS_REGION:-}
readonly KUBELET_CONFIG=/etc/kubernetes/kubelet.conf
readonly ADMIN=/etc/kubernetes/admin.conf
readonly SET_UP=/var/lib/servekit/set-up
# Where weights lie; one folder for each GPU that a node may have (model_server/base/storage.yaml).
readonly MODELS=/var/lib/servekit/models
readonly MODEL_FOLDERS=8
readonly ENGINE_USER=10001

check_settings() {
  [[ $NODE_ROLE =~ ^(control-plane|worker|gpu-worker)$ ]] ||
    fail "NODE_ROLE is '$NODE_ROLE'; it must be control-plane, worker or gpu-worker" 2
  [[ $ACCESS_PARAMETERS == /?* ]] ||
    fail "ACCESS_PARAMETERS is '$ACCESS_PARAMETERS'; it is like /llama-k8s-platform" 2
  [[ -n $REGION ]] || fail "AWS_REGION is not set" 2
}

step() { # SCRIPT
  local flags=()
  [[ $DRY_RUN == 0 ]] || flags+=(--dry-run)
  "$HERE/$1" "${flags[@]}"
}

# A snap's programs are not on the PATH of every service.
export PATH=$PATH:/snap/bin

# The GPU image has it; Ubuntu's has not.
install_aws() {
  command -v aws >/dev/null || run snap install aws-cli --classic
}

# A driver that was just installed works after a reboot, and systemd runs this script again.
install_driver() {
  local code=0
  # shellcheck disable=SC2310  # its exit code is looked at
  step install-gpu-drivers.sh || code=$?
  case $code in
    0) return ;;
    3) say "rebooting for the driver"; run systemctl reboot; exit 0 ;;
    *) fail "the GPU driver could not be installed" ;;
  esac
}

make_model_folders() {
  local number
  for ((number = 0; number < MODEL_FOLDERS; number++)); do
    run install -d -o "$ENGINE_USER" -g "$ENGINE_USER" -m 750 "$ROOT$MODELS-$number"
  done
}

# From the first moment, so that no pod without a GPU is scheduled here.
mark_gpu_node() {
  local marks="--node-labels=nvidia.com/gpu.present=true --register-with-taints=nvidia.com/gpu=present:NoSchedule"
  # shellcheck disable=SC2310  # "unchanged" is no failure
  echo "KUBELET_EXTRA_ARGS=$marks" | write_file /etc/default/kubelet || true
}

parameter() { # NAME
  aws ssm get-parameter --region "$REGION" --with-decryption --name "$ACCESS_PARAMETERS/$1" \
    --query Parameter.Value --output text
}

publish() { # NAME TIER
  local value
  value=$(cat)
  if [[ $DRY_RUN == 1 ]]; then
    echo "+ write the parameter $ACCESS_PARAMETERS/$1"
    return
  fi
  aws ssm put-parameter --region "$REGION" --overwrite --type SecureString --tier "$2" \
    --name "$ACCESS_PARAMETERS/$1" --value "$value" >/dev/null
  say "wrote the parameter $ACCESS_PARAMETERS/$1"
}

# A token holds for a day, so the timer of prepare-node.sh runs this every 12 hours.
publish_access() {
  run kubeadm token create --ttl 24h --print-join-command | publish join Standard
  # Reached through a port forward, so by the name of the machine that forwards.
  admin_config | publish kubeconfig Advanced
}

admin_config() {
  if [[ $DRY_RUN == 0 ]]; then
    sed -E 's@server: https://.*@server: https://127.0.0.1:6443@' "$ROOT$ADMIN"
  fi
}

# Once: a later boot, or the renewal of the token, must not upgrade what runs.
set_up_control_plane() {
  if [[ -f $ROOT$SET_UP ]]; then
    say "the control plane is set up; left alone"
    return
  fi
  step install-k8s.sh
  step init-master.sh
  echo "by bootstrap-node.sh" | write_file "$SET_UP"
}

join() {
  local command
  if [[ $DRY_RUN == 1 ]]; then
    echo "+ run the command of the parameter $ACCESS_PARAMETERS/join"
    return
  fi
  command=$(parameter join) || fail "the parameter $ACCESS_PARAMETERS/join cannot be read; trying again"
  [[ $command == "kubeadm join "* ]] ||
    fail "the control plane has not published how to join; trying again"
  # Words without quotes, as kubeadm prints them.
  read -ra words <<<"$command"
  "${words[@]}"
}

read_arguments "$@"
need_root
check_settings
if [[ $NODE_ROLE != control-plane && -f $ROOT$KUBELET_CONFIG ]]; then
  say "this node has joined; left alone"
  say "done"
  exit
fi
install_aws
case $NODE_ROLE in
  control-plane)
    set_up_control_plane
    publish_access
    ;;
  gpu-worker)
    step install-k8s.sh
    install_driver
    make_model_folders
    mark_gpu_node
    join
    ;;
  worker)
    step install-k8s.sh
    join
    ;;
esac
say "done"
