#!/usr/bin/env bash
# What the benchmark needs of a fresh Ubuntu 24.04: driver, Docker with GPUs, and the model cache.
#
# Google runs it as root at every boot, so each step looks first whether it is done.  Its output is in
# `journalctl -u google-startup-scripts`, and its last line is "prepare-bench: done".
#
#   DRIVER_BRANCH   580: the first branch that runs CUDA 13, which today's vLLM images are built with
#   ROOT            where files are, for tests; empty on a real machine
set -euo pipefail

readonly DRIVER_BRANCH=${DRIVER_BRANCH:-580}
readonly ROOT=${ROOT:-}
readonly NVIDIA=0x10de
# PCI class of a bridge "of another kind", as which NVSwitches show themselves.
readonly SWITCH_CLASS=0x068000
readonly DISK=/dev/disk/by-id/google-model-cache
readonly CACHE=/mnt/model-cache
readonly REBOOTED=$ROOT/var/lib/servekit/rebooted-for-driver

say() { echo "prepare-bench: $*"; }

fail() {
  echo "prepare-bench: $*" >&2
  exit 1
}

install_packages() {
  # A machine that has just booted may be updating itself.
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -qy "$@"
}

installed() { # PACKAGE
  dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q '^install ok installed$'
}

# An update of driver, kernel or Docker in the middle of a comparison would spoil it.
stop_updates() {
  systemctl disable --now apt-daily.timer apt-daily-upgrade.timer unattended-upgrades.service || true
}

mount_cache() {
  if [[ ! -e $ROOT$DISK ]]; then
    say "no disk $DISK; models are kept on the boot disk"
    mkdir -p "$ROOT$CACHE/huggingface"
    return
  fi
  # Only a disk that holds nothing is formatted.
  blkid "$ROOT$DISK" >/dev/null || mkfs.ext4 -q -m 0 -L model-cache "$ROOT$DISK"
  mkdir -p "$ROOT$CACHE"
  grep -qs " $CACHE " "$ROOT/etc/fstab" ||
    echo "LABEL=model-cache $CACHE ext4 defaults,nofail,discard 0 2" >>"$ROOT/etc/fstab"
  mountpoint -q "$ROOT$CACHE" || mount "$ROOT$CACHE"
  # Where model_cache_gb has grown.
  resize2fs "$ROOT$DISK" >/dev/null
  mkdir -p "$ROOT$CACHE/huggingface"
}

install_docker() {
  # shellcheck disable=SC2310  # "not installed" is no failure
  if installed docker.io && installed docker-compose-v2; then
    return
  fi
  apt-get -o DPkg::Lock::Timeout=600 update -q
  install_packages docker.io docker-buildx docker-compose-v2
}

has_pci() { # CLASS-PATTERN
  local device
  for device in "$ROOT"/sys/bus/pci/devices/*; do
    # shellcheck disable=SC2053  # a pattern
    [[ -f $device/vendor && $(<"$device/vendor") == "$NVIDIA" && $(<"$device/class") == $1 ]] && return
  done
  return 1
}

driver_works() {
  local version
  version=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1) || return 1
  [[ -n $version && $(printf '%s\n%s\n' "$DRIVER_BRANCH" "$version" | sort -V | head -n 1) == "$DRIVER_BRANCH" ]]
}

# Ubuntu's modules are signed, so that they load with Secure Boot, and need no compiler.
install_driver() {
  local modules=linux-modules-nvidia-$DRIVER_BRANCH-server-open
  local packages=(
    "$modules-gcp" "nvidia-headless-no-dkms-$DRIVER_BRANCH-server-open" "nvidia-utils-$DRIVER_BRANCH-server"
  )
  # The modules' metapackage is for the newest kernel, which may not be the one that runs.
  apt-cache show "$modules-$(uname -r)" >/dev/null 2>&1 && packages+=("$modules-$(uname -r)")
  # On machines with NVSwitches (a3-highgpu-8g) CUDA starts only when the fabric is up.  Of the same
  # version as the driver, or it refuses.
  # shellcheck disable=SC2310  # "no switch" is no failure
  if has_pci "$SWITCH_CLASS"; then
    packages+=("nvidia-fabricmanager-$DRIVER_BRANCH")
  fi
  install_packages "${packages[@]}"
  modprobe nvidia || true
}

start_driver() {
  # shellcheck disable=SC2310  # asked, not obeyed
  driver_works || { apt-get -o DPkg::Lock::Timeout=600 update -q; install_driver; }
  # shellcheck disable=SC2310
  driver_works || reboot_once
  # shellcheck disable=SC2310
  if has_pci "$SWITCH_CLASS"; then
    systemctl enable --now nvidia-fabricmanager
  fi
  # Without it the driver unloads between runs, and the first request of the next pays for it.
  nvidia-smi -pm 1 >/dev/null
}

reboot_once() {
  [[ ! -e $REBOOTED ]] ||
    fail "the driver does not load after a reboot; see \`dmesg | grep -i nvidia\`, then remove $REBOOTED"
  mkdir -p "${REBOOTED%/*}"
  touch "$REBOOTED"
  say "the driver needs the new kernel; rebooting, and going on from there"
  reboot
  exit 0
}

install_toolkit() {
  local keyring=/etc/apt/keyrings/nvidia-container-toolkit.asc
  # shellcheck disable=SC2310  # "not installed" is no failure
  if ! installed nvidia-container-toolkit; then
    mkdir -p "$ROOT/etc/apt/keyrings" "$ROOT/etc/apt/sources.list.d"
    curl --fail --silent --show-error --location --retry 5 \
      https://nvidia.github.io/libnvidia-container/gpgkey -o "$ROOT$keyring"
    echo "deb [signed-by=$keyring] https://nvidia.github.io/libnvidia-container/stable/deb/amd64 /" \
      >"$ROOT/etc/apt/sources.list.d/nvidia-container-toolkit.list"
    apt-get -o DPkg::Lock::Timeout=600 update -q
    install_packages nvidia-container-toolkit
  fi
  grep -qs nvidia-container-runtime "$ROOT/etc/docker/daemon.json" && return
  nvidia-ctk runtime configure --runtime=docker
  systemctl restart docker
}

main() {
  stop_updates
  mount_cache
  install_docker
  # shellcheck disable=SC2310  # "no GPU" is no failure
  if has_pci "0x03*"; then
    start_driver
    install_toolkit
  else
    say "no NVIDIA GPU on this machine; Docker runs without"
  fi
  say "done"
}

main
