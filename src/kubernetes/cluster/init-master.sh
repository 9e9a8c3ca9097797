#!/usr/bin/env bash
# Make this node the control plane, with Calico: init-master.sh [--dry-run]
#
# Once, on the master, after install-k8s.sh.  Can be run again: a control plane that stands is left
# alone, Calico is brought to its version, and a fresh join command is printed (it holds for 24 h).
#
#   POD_CIDR           192.168.0.0/16
#   SERVICE_CIDR       10.96.0.0/12
#   CALICO_VERSION     v3.33.1
#   CERT_NAMES         127.0.0.1: names of the API server besides its own; the first is for port forwards
set -euo pipefail
readonly PROGRAM=init-master
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"

readonly POD_CIDR=${POD_CIDR:-192.168.0.0/16}
readonly SERVICE_CIDR=${SERVICE_CIDR:-10.96.0.0/12}
readonly CALICO_VERSION=${CALICO_VERSION:-v3.33.1}
readonly CALICO=https://raw.githubusercontent.com/projectcalico/calico/$CALICO_VERSION/manifests
readonly CERT_NAMES=${CERT_NAMES:-127.0.0.1}
readonly ADMIN=/etc/kubernetes/admin.conf
export KUBECONFIG=$ROOT$ADMIN

init_control_plane() {
  if [[ -f $ROOT$ADMIN ]]; then
    say "the control plane stands ($ADMIN); left alone"
    return
  fi
  run kubeadm init --pod-network-cidr="$POD_CIDR" --service-cidr="$SERVICE_CIDR" \
    --apiserver-cert-extra-sans="$CERT_NAMES"
}

# Server-side: the operator's definitions are larger than an annotation may be.
install_calico() {
  run kubectl apply --server-side --force-conflicts -f "$CALICO/operator-crds.yaml"
  run kubectl apply --server-side --force-conflicts -f "$CALICO/tigera-operator.yaml"
  run kubectl wait --for=condition=Established --timeout=120s crd/installations.operator.tigera.io
  installation | run_with_input kubectl apply --server-side --force-conflicts -f -
}

installation() {
  cat <<YAML
apiVersion: operator.tigera.io/v1
kind: Installation
metadata:
  name: default
spec:
  calicoNetwork:
    ipPools:
      - cidr: $POD_CIDR
        # Always, also within a subnet: EC2's security groups match the addresses of instances, and
        # drop packets that carry a pod's.
        encapsulation: IPIP
        natOutgoing: Enabled
        nodeSelector: all()
YAML
}

run_with_input() {
  if [[ $DRY_RUN == 1 ]]; then
    echo "+ $*"
    sed 's/^/    /'
    return
  fi
  "$@"
}

give_kubectl_to_the_user() {
  local user=${SUDO_USER:-}
  [[ -n $user && $user != root && -z $ROOT ]] || return 0
  local home
  home=$(getent passwd "$user" | cut -d: -f6)
  run install -D -o "$user" -g "$user" -m 600 "$ADMIN" "$home/.kube/config"
}

say_how_to_join() {
  say "join each worker with:"
  run kubeadm token create --print-join-command
}

read_arguments "$@"
need_root
[[ $CALICO_VERSION =~ ^v[0-9]+\.[0-9]+\.[0-9]+$ ]] ||
  fail "CALICO_VERSION is '$CALICO_VERSION'; it is like v3.33.1" 2
init_control_plane
install_calico
give_kubectl_to_the_user
say_how_to_join
say "done"
