# What a node may be asked for, and by whom.  Ports: kubernetes.io "Ports and Protocols", and
# docs.tigera.io "System requirements".
locals {
  control_plane_ports = {
    api-server         = { protocol = "tcp", from = 6443, to = 6443 }
    etcd               = { protocol = "tcp", from = 2379, to = 2380 }
    controller-manager = { protocol = "tcp", from = 10257, to = 10257 }
    scheduler          = { protocol = "tcp", from = 10259, to = 10259 }
  }
  node_ports = {
    kubelet = { protocol = "tcp", from = 10250, to = 10250 }
    # kube-prometheus-stack runs it in the network of the nodes.
    node-exporter = { protocol = "tcp", from = 9100, to = 9100 }
    # Calico.  All traffic from and to pods crosses nodes in IPIP (init-master.sh): EC2 matches a
    # group by the address of an instance, and would drop a packet that carries a pod's.
    bgp   = { protocol = "tcp", from = 179, to = 179 }
    typha = { protocol = "tcp", from = 5473, to = 5473 }
    vxlan = { protocol = "udp", from = 4789, to = 4789 }
    ipip  = { protocol = "4", from = null, to = null }
    # A ping tells a dead node from a dead service; path MTU discovery needs ICMP too.
    icmp = { protocol = "icmp", from = -1, to = -1 }
  }
  node_port_sources = setunion([var.vpc_cidr], var.node_port_cidrs)
}

resource "aws_security_group" "node" {
  name_prefix = "${var.name}-node-"
  description = "Every node of the cluster"
  vpc_id      = aws_vpc.this.id
  tags        = { Name = "${var.name}-node" }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "control_plane" {
  name_prefix = "${var.name}-control-plane-"
  description = "The control plane, besides what every node has"
  vpc_id      = aws_vpc.this.id
  tags        = { Name = "${var.name}-control-plane" }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "node" {
  #checkov:skip=CKV_AWS_277:from_port -1 is every ICMP type, and its source is this very group
  for_each                     = local.node_ports
  description                  = "${each.key} between nodes"
  security_group_id            = aws_security_group.node.id
  referenced_security_group_id = aws_security_group.node.id
  ip_protocol                  = each.value.protocol
  from_port                    = each.value.from
  to_port                      = each.value.to
}

resource "aws_vpc_security_group_ingress_rule" "node_port" {
  for_each          = local.node_port_sources
  description       = "NodePorts"
  security_group_id = aws_security_group.node.id
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 30000
  to_port           = 32767
}

resource "aws_vpc_security_group_ingress_rule" "load_balancer" {
  for_each                     = toset(local.public)
  description                  = "The chat's NodePort from the public load balancer"
  security_group_id            = aws_security_group.node.id
  referenced_security_group_id = aws_security_group.public["chat"].id
  ip_protocol                  = "tcp"
  from_port                    = local.chat_port
  to_port                      = local.chat_port
}

resource "aws_vpc_security_group_ingress_rule" "control_plane" {
  for_each                     = local.control_plane_ports
  description                  = "${each.key} from nodes"
  security_group_id            = aws_security_group.control_plane.id
  referenced_security_group_id = aws_security_group.node.id
  ip_protocol                  = each.value.protocol
  from_port                    = each.value.from
  to_port                      = each.value.to
}

resource "aws_vpc_security_group_egress_rule" "node" {
  #checkov:skip=CKV_AWS_382:images, packages and weights come from networks whose addresses change
  description       = "Anywhere: images, packages, weights, SSM"
  security_group_id = aws_security_group.node.id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
}
