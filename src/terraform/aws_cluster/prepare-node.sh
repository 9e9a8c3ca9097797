#!/usr/bin/env bash
# What a machine needs before install-k8s.sh: a name, no swap, and a kernel that forwards.
#
# EC2 runs it once, as root, as user data; it can be run again.  The log is
# /var/log/prepare-node.log, and its last line is "prepare-node: done".  NODE_NAME is the host name.
set -euo pipefail

log() { echo "prepare-node: $*"; }

set_name() {
  local name=${NODE_NAME:-}
  if [[ -z $name ]]; then
    log "NODE_NAME is not set; the host name stays $(hostname)"
    return
  fi
  hostnamectl set-hostname "$name"
  grep -q " $name\$" /etc/hosts || echo "127.0.1.1 $name" >>/etc/hosts
}

# The kubelet refuses to start with swap on.
turn_swap_off() {
  swapoff -a
  sed -i -E 's@^([^#].*[[:space:]]swap[[:space:]].*)$@# \1@' /etc/fstab
}

load_modules() {
  printf '%s\n' overlay br_netfilter >/etc/modules-load.d/kubernetes.conf
  modprobe overlay
  modprobe br_netfilter
}

forward_packets() {
  cat >/etc/sysctl.d/90-kubernetes.conf <<'SYSCTL'
net.bridge.bridge-nf-call-iptables = 1
net.bridge.bridge-nf-call-ip6tables = 1
net.ipv4.ip_forward = 1
SYSCTL
  sysctl --system >/dev/null
}

# Ubuntu's images bring the agent as a snap, Debian-like ones as a service, or not at all.
start_ssm_agent() {
  local unit
  for unit in snap.amazon-ssm-agent.amazon-ssm-agent amazon-ssm-agent; do
    if systemctl list-unit-files "$unit.service" 2>/dev/null | grep -q "$unit"; then
      systemctl enable --now "$unit.service"
      return
    fi
  done
  snap install amazon-ssm-agent --classic
}

main() {
  set_name
  turn_swap_off
  load_modules
  forward_packets
  start_ssm_agent
  log "done"
}

# Where there is no log to write to (a test), the script only defines its functions.
if [[ ${PREPARE_NODE_DEFINE_ONLY:-} != 1 ]]; then
  exec > >(tee -a /var/log/prepare-node.log) 2>&1
  main
fi
