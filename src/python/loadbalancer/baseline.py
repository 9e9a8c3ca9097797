"""`loadbalancer:baseline`: each model's replicas in turn (round robin)."""

from loadbalancer.program import balancer_app
from servekit.cli.program import run_program

app = balancer_app(port=8080, policy="round-robin", what="Route requests to replicas in turn.")

if __name__ == "__main__":
    run_program(app)
