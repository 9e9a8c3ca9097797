# A public way in, where certificate_arn names a certificate: TLS to the chat's NodePort.
locals {
  public       = var.certificate_arn == "" ? [] : ["chat"]
  chat_port    = 30080
  page_workers = [for name, node in local.nodes : name if node.role == "worker"]
}

resource "aws_security_group" "public" {
  #checkov:skip=CKV2_AWS_5:the load balancer below has it; checkov does not see through for_each
  for_each    = toset(local.public)
  name_prefix = "${var.name}-public-"
  description = "The public load balancer of the chat"
  vpc_id      = aws_vpc.this.id
  tags        = { Name = "${var.name}-public" }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "public" {
  for_each          = length(local.public) > 0 ? var.client_cidrs : []
  description       = "Clients of the chat"
  security_group_id = aws_security_group.public["chat"].id
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "public" {
  for_each                     = toset(local.public)
  description                  = "The chat's NodePort"
  security_group_id            = aws_security_group.public["chat"].id
  referenced_security_group_id = aws_security_group.node.id
  ip_protocol                  = "tcp"
  from_port                    = local.chat_port
  to_port                      = local.chat_port
}

resource "aws_lb" "public" {
  #checkov:skip=CKV_AWS_91:the chat's nginx and backend log requests; a log bucket is another configuration
  #checkov:skip=CKV2_AWS_28:requests are limited per client in the backend
  #checkov:skip=CKV_AWS_150:the configuration is made to be destroyed
  for_each                   = toset(local.public)
  name_prefix                = "chat-"
  load_balancer_type         = "application"
  internal                   = false
  security_groups            = [aws_security_group.public["chat"].id]
  subnets                    = [for zone in local.zones : aws_subnet.public[zone].id]
  drop_invalid_header_fields = true
  # An answer may be silent for as long as the page's proxy waits.
  idle_timeout = 300
}

resource "aws_lb_target_group" "public" {
  #checkov:skip=CKV_AWS_378:TLS ends at the load balancer; behind it is the VPC
  for_each             = toset(local.public)
  name_prefix          = "chat-"
  port                 = local.chat_port
  protocol             = "HTTP"
  vpc_id               = aws_vpc.this.id
  deregistration_delay = 300

  health_check {
    path     = "/healthz"
    interval = 10
    timeout  = 5
  }
}

resource "aws_lb_target_group_attachment" "public" {
  for_each         = length(local.public) > 0 ? toset(local.page_workers) : []
  target_group_arn = aws_lb_target_group.public["chat"].arn
  target_id        = aws_instance.node[each.value].id
  port             = local.chat_port
}

resource "aws_lb_listener" "public" {
  for_each          = toset(local.public)
  load_balancer_arn = aws_lb.public["chat"].arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = var.certificate_arn

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.public["chat"].arn
  }
}
