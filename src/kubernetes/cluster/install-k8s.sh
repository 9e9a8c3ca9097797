#!/usr/bin/env bash
# Install containerd, kubeadm, kubelet and kubectl on this node: install-k8s.sh [--dry-run]
#
# For every node (Ubuntu or Debian), after prepare-node.sh.  Can be run again: it changes what is
# not as it should be, and a version only when KUBERNETES_MINOR does.
#
#   KUBERNETES_MINOR   1.36: one behind the newest, so that Calico's tests cover it
set -euo pipefail
readonly PROGRAM=install-k8s
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"

readonly KUBERNETES_MINOR=${KUBERNETES_MINOR:-1.36}
readonly CONTAINERD_CONFIG=/etc/containerd/config.toml

check_node() {
  [[ $KUBERNETES_MINOR =~ ^1\.[0-9]+$ ]] ||
    fail "KUBERNETES_MINOR is '$KUBERNETES_MINOR'; it is like 1.36" 2
  if [[ -z $ROOT && $(wc -l </proc/swaps) -gt 1 && $DRY_RUN == 0 ]]; then
    fail "swap is on and the kubelet will not start; run prepare-node.sh first"
  fi
}

# Docker's packages: Kubernetes 1.36 needs containerd 2, and Ubuntu 24.04 came with 1.7.
install_containerd() {
  local distribution codename
  distribution=$(sed -n 's/^ID=//p' "$ROOT/etc/os-release")
  codename=$(sed -n 's/^VERSION_CODENAME=//p' "$ROOT/etc/os-release")
  run apt-get update -q
  run apt-get install -qy --no-install-recommends ca-certificates curl gpg
  add_repository docker "https://download.docker.com/linux/$distribution/gpg" \
    "https://download.docker.com/linux/$distribution $codename stable"
  run apt-get install -qy containerd.io
  # The kubelet counts in systemd's cgroups; containerd must count in the same.
  # shellcheck disable=SC2310  # "unchanged" is no failure
  if containerd_config | write_file "$CONTAINERD_CONFIG"; then
    run systemctl restart containerd
  fi
  run systemctl enable --now containerd
}

# The GPU runtime adds its own file to conf.d, so that neither script undoes the other's work.
containerd_config() {
  cat <<'TOML'
version = 3
imports = ["/etc/containerd/conf.d/*.toml"]

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  SystemdCgroup = true
TOML
}

install_kubernetes() {
  local packages=https://pkgs.k8s.io/core:/stable:/v$KUBERNETES_MINOR/deb
  add_repository kubernetes "$packages/Release.key" "$packages/ /"
  # Held: an unattended upgrade of one node's kubelet must not outrun the control plane.
  run apt-get install -qy --allow-change-held-packages kubelet kubeadm kubectl
  run apt-mark hold kubelet kubeadm kubectl
  run systemctl enable kubelet
}

read_arguments "$@"
need_root
check_node
install_containerd
install_kubernetes
say "done"
