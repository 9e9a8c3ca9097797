"""`loadbalancer:managed`: each request to the replica that will serve it soonest."""

from loadbalancer.program import balancer_app
from servekit.cli.program import run_program

app = balancer_app(
    port=8081, policy="latency", what="Route requests to the replica that will answer first."
)

if __name__ == "__main__":
    run_program(app)
