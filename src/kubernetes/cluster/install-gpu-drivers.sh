#!/usr/bin/env bash
# Install NVIDIA's driver and container runtime on this GPU worker: install-gpu-drivers.sh [--dry-run]
#
# After install-k8s.sh.  Can be run again: a driver that is new enough is kept, as on AWS's GPU
# images.  A node needs a reboot when a driver was installed, and the script says so (exit code 3).
#
#   DRIVER_BRANCH      580: the first branch that runs CUDA 13, which today's vLLM images are built with
set -euo pipefail
readonly PROGRAM=install-gpu-drivers
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"

readonly DRIVER_BRANCH=${DRIVER_BRANCH:-580}
readonly NVIDIA_PCI_VENDOR=0x10de
reboot_needed=0

check_gpu() {
  [[ $DRIVER_BRANCH =~ ^[0-9]+$ ]] || fail "DRIVER_BRANCH is '$DRIVER_BRANCH'; it is like 580" 2
  if ! grep -qs "$NVIDIA_PCI_VENDOR" "$ROOT"/sys/bus/pci/devices/*/vendor; then
    [[ $DRY_RUN == 1 ]] || fail "this node has no NVIDIA GPU; run it on a GPU worker"
    say "this node has no NVIDIA GPU; a real run would stop here"
  fi
}

driver_version() {
  nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 || true
}

install_driver() {
  local version
  version=$(driver_version)
  if [[ -n $version ]] && at_least "$version" "$DRIVER_BRANCH"; then
    say "driver $version is new enough"
    return
  fi
  say "driver ${version:-none}; installing $DRIVER_BRANCH"
  run apt-get update -q
  # The open kernel modules: the only ones for Blackwell, the recommended ones since Turing (T4).
  run apt-get install -qy "linux-headers-$(uname -r)" \
    "nvidia-headless-$DRIVER_BRANCH-server-open" "nvidia-utils-$DRIVER_BRANCH-server"
  reboot_needed=1
}

install_runtime() {
  add_repository nvidia-container-toolkit https://nvidia.github.io/libnvidia-container/gpgkey \
    "https://nvidia.github.io/libnvidia-container/stable/deb/amd64 /"
  run apt-get install -qy nvidia-container-toolkit
  # As the default runtime: the device plugin's pods ask for none.
  # shellcheck disable=SC2310  # "unchanged" is no failure
  if runtime_config | write_file /etc/containerd/conf.d/nvidia.toml; then
    run systemctl restart containerd
  fi
}

runtime_config() {
  cat <<'TOML'
version = 3

[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "nvidia"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.nvidia]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.nvidia.options]
  BinaryName = "/usr/bin/nvidia-container-runtime"
  SystemdCgroup = true
TOML
}

read_arguments "$@"
need_root
check_gpu
install_driver
install_runtime
if [[ $reboot_needed == 1 ]]; then
  say "reboot this node, then run the script again to see that the driver works"
  [[ $DRY_RUN == 1 ]] || exit 3
fi
say "done"
