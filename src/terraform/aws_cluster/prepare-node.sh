#!/usr/bin/env bash
# What a machine needs before install-k8s.sh: a name, no swap, and a kernel that forwards.
#
# EC2 runs it once, as root, as user data; it can be run again.  The log is
# /var/log/prepare-node.log, and its last line is "prepare-node: done".  NODE_NAME is the host name;
# ROOT is where files are written, for tests, and empty on a real node.
set -euo pipefail
ROOT=${ROOT:-}

log() { echo "prepare-node: $*"; }

set_name() {
  local name=${NODE_NAME:-}
  if [[ -z $name ]]; then
    log "NODE_NAME is not set; the host name stays $(hostname)"
    return
  fi
  hostnamectl set-hostname "$name"
  grep -q " $name\$" "$ROOT/etc/hosts" || echo "127.0.1.1 $name" >>"$ROOT/etc/hosts"
}

# The kubelet refuses to start with swap on.
turn_swap_off() {
  swapoff -a
  sed -i -E 's@^([^#].*[[:space:]]swap[[:space:]].*)$@# \1@' "$ROOT/etc/fstab"
}

load_modules() {
  printf '%s\n' overlay br_netfilter >"$ROOT"/etc/modules-load.d/kubernetes.conf
  modprobe overlay
  modprobe br_netfilter
}

forward_packets() {
  cat >"$ROOT"/etc/sysctl.d/90-kubernetes.conf <<'SYSCTL'
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

# At every boot until the node is part of the cluster, and again where it failed.  On the control
# plane every 12 hours too: the token with which workers join holds for a day.
start_bootstrap() {
  [[ -x $ROOT/opt/servekit/bootstrap-node.sh ]] || return 0
  cat >"$ROOT"/etc/systemd/system/servekit-bootstrap.service <<'UNIT'
[Unit]
Description=Bring this node into the Kubernetes cluster
After=network-online.target
Wants=network-online.target

[Service]
Type=oneshot
EnvironmentFile=/opt/servekit/node.env
ExecStart=/opt/servekit/bootstrap-node.sh
Restart=on-failure
RestartSec=20

[Install]
WantedBy=multi-user.target
UNIT
  cat >"$ROOT"/etc/systemd/system/servekit-bootstrap.timer <<'UNIT'
[Unit]
Description=Renew the token with which workers join

[Timer]
OnUnitInactiveSec=12h

[Install]
WantedBy=timers.target
UNIT
  systemctl daemon-reload
  systemctl enable servekit-bootstrap.service
  systemctl start --no-block servekit-bootstrap.service
  if grep -qx NODE_ROLE=control-plane "$ROOT"/opt/servekit/node.env; then
    systemctl enable --now servekit-bootstrap.timer
  fi
}

main() {
  set_name
  turn_swap_off
  load_modules
  forward_packets
  start_ssm_agent
  start_bootstrap
  log "done"
}

# Where there is no log to write to (a test), the script only defines its functions.
if [[ ${PREPARE_NODE_DEFINE_ONLY:-} != 1 ]]; then
  exec > >(tee -a "$ROOT/var/log/prepare-node.log") 2>&1
  main
fi
