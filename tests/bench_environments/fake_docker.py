"""A stand-in for `docker`, with Compose: notes its calls, and keeps its containers in a file.

Started as a program, by the path of this file.  FAKE_DOCKER names its folder, in which a test may
say what goes wrong: `no-daemon`, `no-compose`, `compose-version`, `pull-fails`, `up-fails`, and
`fails/NAME` for a container that ends at once.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml


class FakeDocker:
    """What one call finds and leaves in the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept = folder / "containers.json"

    def says(self, name: str) -> str | None:
        path = self.folder / name
        return path.read_text().strip() if path.is_file() else None

    @property
    def containers(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = json.loads(self.says("containers.json") or "{}")
        return found

    def keep(self, containers: dict[str, dict[str, Any]]) -> None:
        self.kept.write_text(json.dumps(containers))

    def call(self, args: list[str]) -> int:
        with (self.folder / "calls").open("a") as calls:
            calls.write(" ".join(args) + "\n")
        if self.says("no-daemon") is not None:
            return fail("Cannot connect to the Docker daemon. Is the docker daemon running?")
        if args[0] == "compose":
            return self.compose(args[1:])
        # version, stop, network: nothing to say.
        known = ("ps", "inspect", "image", "pull", "logs", "rm")
        return int(getattr(self, args[0])(args[1:])) if args[0] in known else 0

    def compose(self, args: list[str]) -> int:
        if self.says("no-compose") is not None:
            return fail("docker: 'compose' is not a docker command.")
        if args[0] == "version":
            return say(self.says("compose-version") or "2.40.0")
        file = Path(args[args.index("--file") + 1])
        asked = yaml.safe_load(file.read_text())["services"]
        if "config" in args:
            return say(yaml.safe_dump({"services": {n: resolved(s) for n, s in asked.items()}}))
        return self.up({name: asked[name] for name in args if name in asked})

    def up(self, services: dict[str, Any]) -> int:
        if self.says("up-fails") is not None:
            return fail("ERROR: for x  could not select device driver\nEncountered errors.")
        self.keep(self.containers | {s["container_name"]: self.made(s) for s in services.values()})
        return 0

    def made(self, service: dict[str, Any]) -> dict[str, Any]:
        ends = self.says(f"fails/{service['container_name']}") is not None
        state = {"Status": "exited", "ExitCode": 3} if ends else {"Status": "running"}
        name, labels = service["container_name"], service["labels"]
        return {
            "Id": f"id-{name}",
            "Name": f"/{name}",
            "State": {**state, "Health": {"Status": "healthy"}},
            "Config": {"Image": service["image"], "Labels": labels},
        }

    def ps(self, args: list[str]) -> int:
        name, _, value = args[args.index("--filter") + 1].removeprefix("label=").partition("=")
        found = [
            one["Id"]
            for one in self.containers.values()
            if name in (labels := one["Config"]["Labels"]) and value in ("", labels[name])
        ]
        return say("\n".join(found))

    def inspect(self, ids: list[str]) -> int:
        return say(json.dumps([one for one in self.containers.values() if one["Id"] in ids]))

    def image(self, args: list[str]) -> int:
        return 0 if self.says("pull-fails") is None else fail(f"No such image: {args[-1]}")

    def pull(self, args: list[str]) -> int:
        return fail(f"Error response from daemon: pull access denied for {args[-1]}")

    def logs(self, args: list[str]) -> int:
        return say(f"{args[-1]}: CUDA out of memory")

    def rm(self, args: list[str]) -> int:
        self.keep({n: one for n, one in self.containers.items() if one["Id"] not in args})
        return 0


def resolved(service: dict[str, Any]) -> dict[str, Any]:
    """With the default of each image's variable."""
    return {**service, "image": service["image"].partition(":-")[2].removesuffix("}")}


def say(text: str) -> int:
    sys.stdout.write(text + "\n")
    return 0


def fail(text: str) -> int:
    sys.stderr.write(text + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(FakeDocker(Path(os.environ["FAKE_DOCKER"])).call(sys.argv[1:]))
