#!/usr/bin/env bash
# Let the cluster schedule GPUs: deploy-gpu-plugin.sh [--dry-run]
#
# From wherever kubectl reaches the cluster, once the GPU workers have joined.  Can be run again.
# Labels and taints every GPU worker, and runs NVIDIA's device plugin on them.
#
#   DEVICE_PLUGIN_VERSION   v0.18.1
#   GPU_NODES               names, spaces between; by default every node called *-gpu-worker or *-gpu-worker-N
#   PLUGIN_TIMEOUT_S        180: how long a node may take to offer its GPUs
set -euo pipefail
readonly PROGRAM=deploy-gpu-plugin
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"

readonly DEVICE_PLUGIN_VERSION=${DEVICE_PLUGIN_VERSION:-v0.18.1}
readonly PLUGIN_TIMEOUT_S=${PLUGIN_TIMEOUT_S:-180}
readonly PLUGIN=https://raw.githubusercontent.com/NVIDIA/k8s-device-plugin/$DEVICE_PLUGIN_VERSION/deployments/static/nvidia-device-plugin.yml

gpu_nodes() {
  if [[ -n ${GPU_NODES:-} ]]; then
    tr ' ' '\n' <<<"$GPU_NODES"
    return
  fi
  kubectl get nodes --output=name | sed -nE 's@^node/(.*-gpu-worker(-[0-9]+)?)$@\1@p'
}

# The label is what the model server asks for; the taint keeps everything else away.
mark() { # NODE
  run kubectl label node "$1" --overwrite nvidia.com/gpu.present=true
  run kubectl taint node "$1" --overwrite nvidia.com/gpu=present:NoSchedule
}

deploy_plugin() {
  run kubectl apply -f "$PLUGIN"
  run kubectl --namespace kube-system patch daemonset nvidia-device-plugin-daemonset --type merge \
    --patch '{"spec":{"template":{"spec":{"nodeSelector":{"nvidia.com/gpu.present":"true"}}}}}'
  run kubectl --namespace kube-system rollout status daemonset/nvidia-device-plugin-daemonset --timeout=180s
}

# A GPU that the plugin does not offer leaves every pod Pending; better to hear it here.  The kubelet
# lists it some seconds after the plugin runs.
check_capacity() { # NODE
  local count=0 deadline=$((SECONDS + PLUGIN_TIMEOUT_S))
  if [[ $DRY_RUN == 1 ]]; then
    echo "+ kubectl get node $1 (must offer nvidia.com/gpu)"
    return
  fi
  while
    count=$(kubectl get node "$1" --output=jsonpath='{.status.allocatable.nvidia\.com/gpu}')
    [[ ${count:-0} -lt 1 ]]
  do
    [[ $SECONDS -lt $deadline ]] ||
      fail "$1 offers no GPU; look at install-gpu-drivers.sh and the plugin's log there"
    sleep 5
  done
  say "$1 offers $count GPU"
}

read_arguments "$@"
# shellcheck disable=SC2310  # a cluster that does not answer is reported as having no nodes
mapfile -t nodes < <(gpu_nodes)
[[ ${#nodes[@]} -gt 0 ]] ||
  fail "no node is called *-gpu-worker or *-gpu-worker-N, or kubectl reaches no cluster; name them in GPU_NODES" 2
for node in "${nodes[@]}"; do mark "$node"; done
deploy_plugin
for node in "${nodes[@]}"; do check_capacity "$node"; done
say "done"
