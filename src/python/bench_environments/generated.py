"""The files in the repository that are made from the fleet files.  Pure."""

from bench_environments.compose import compose_text
from bench_environments.deployment import (
    ENVIRONMENTS,
    EngineKind,
    Environment,
    FleetDeployment,
    default_engine,
)
from bench_environments.engines import CPU_IMAGE, IMAGES
from servekit.fleet.fleet import load_fleet

# File, fleet, engine; None is what the environment runs by default.
_VARIANTS = (
    ("compose.yaml", "h100", None),
    ("compose.l4.yaml", "l4", None),
    ("compose.colocated.yaml", "colocated", None),
    ("compose.cpu.yaml", "cpu", None),
    ("compose.simulated.yaml", "h100", EngineKind.simulator),
)


def generated_files() -> dict[str, str]:
    """Return the text of each file, by its path in the repository."""
    files = {}
    for environment in ENVIRONMENTS.values():
        folder = f"src/docker/{environment.folder}"
        for name, fleet, engine in _VARIANTS:
            files[f"{folder}/{name}"] = compose_text(deployment_of(environment, fleet, engine))
        files[f"{folder}/.env.example"] = env_example(environment)
    return files


def deployment_of(
    environment: Environment,
    fleet_name: str,
    engine: EngineKind | None = None,
    port: int | None = None,
) -> FleetDeployment:
    """Return *environment* with a fleet, on what it runs by default unless *engine* is given.

    Raises:
        FleetInvalid: there is no such fleet, or it contradicts itself.
        SettingInvalid: the engine cannot serve it.
    """
    fleet = load_fleet(fleet_name)
    return FleetDeployment(
        environment=environment,
        fleet_name=fleet_name,
        fleet=fleet,
        engine=engine or default_engine(environment, fleet),
        port=port or environment.port,
    )


def env_example(environment: Environment) -> str:
    """Return the file that people copy to `.env`."""
    images = "".join(f"# {name}={image}\n" for name, image in (*IMAGES.values(), CPU_IMAGE))
    return (
        f"# Copy to .env: cp src/docker/{environment.folder}/.env.example "
        f"src/docker/{environment.folder}/.env\n"
        "\n"
        "# Of an account that may read Llama, Mixtral and Mistral: huggingface.co/settings/tokens\n"
        "HF_TOKEN=\n"
        "\n"
        "# The following variables are optional; their defaults are shown.\n"
        "# Folder of the downloaded models, shared by both environments.\n"
        "# MODEL_CACHE=/mnt/model-cache/huggingface\n"
        "# Listen address; 0.0.0.0 admits other machines, without authentication.\n"
        "# BIND_ADDRESS=127.0.0.1\n"
        "# Interval between two polls of the engines' metrics (s).\n"
        "# METRICS_POLL_INTERVAL=0.2\n"
        f"# {environment.name.upper()}_LB_IMAGE={environment.image}:latest\n" + images
    )
