"""What a release is checked by: its tag, the changelog, licences, and what is in each program."""

import importlib.machinery
import importlib.util
import json
import re
import subprocess
import sys
from email.message import Message
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
RELEASE = ROOT / "build-support/release"

# What may be shipped with a product under Apache-2.0: nothing that asks for our source.
ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-0"),
    *("MPL-2.0", "PSF-2.0", "Unlicense", "Zlib"),
}


def script(name: str) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader(f"release_{name}", str(RELEASE / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


def sbom(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        (sys.executable, str(RELEASE / "sbom"), *args), capture_output=True, text=True, check=False
    )


CHANGELOG = """\
## Unreleased

## 1.2.0 (2026-11-28)

### bench
- Faster.

### simulator

## 1.1.0 (2026-01-01)
"""


@pytest.mark.parametrize(
    ("tag", "version", "faults"),
    [
        ("v1.1.0", "1.1.0", []),
        ("v1.2.0", "1.2.0", ["nothing under 'simulator'"]),
        ("1.1.0", "1.1.0", ["tag '1.1.0' is not 'v1.1.0'"]),
        ("v1.1.1", "1.1.0", ["tag 'v1.1.1' is not 'v1.1.0'"]),
        ("v1.3.0", "1.3.0", ["CHANGELOG.md has no '## 1.3.0 (YYYY-MM-DD)'"]),
    ],
)
def test_a_tag_must_be_the_version_that_the_changelog_describes(
    tag: str, version: str, faults: list[str]
) -> None:
    """One version everywhere, and a heading for each deployable that changed."""
    found = script("check").faults(tag, version, CHANGELOG)

    assert len(found) == len(faults)
    assert all(
        found[i].startswith(("tag", "CHANGELOG")) and f in found[i] for i, f in enumerate(faults)
    )


def test_every_package_has_a_licence_that_we_may_ship() -> None:
    """A package that is new in the lock has none yet: build-support/release/licences writes it."""
    folder = ROOT / "3rdparty/python"
    pins = re.findall(r"^[A-Za-z0-9][\w.-]*", (folder / "servekit.lock").read_text(), re.MULTILINE)
    rows = dict(
        re.findall(r"^([\w-]+): (.+)$", (folder / "licences.txt").read_text(), re.MULTILINE)
    )

    assert sorted(rows) == sorted(re.sub(r"[-_.]+", "-", pin).lower() for pin in pins)
    parts = {name: set(re.split(r" AND | OR |[()]| ", text)) - {""} for name, text in rows.items()}
    assert {name: ids for name, ids in parts.items() if not ids <= ALLOWED} == {}


@pytest.mark.parametrize("older", [("Apache 2.0", "Apache-2.0"), ("MIT License", "MIT"), ("", "")])
def test_older_metadata_is_understood(older: tuple[str, str]) -> None:
    """By how its text begins; what says nothing is left to a person."""
    metadata = Message()
    metadata["License"] = older[0]

    assert script("licences").spdx(metadata) == older[1]


def test_a_program_lists_what_the_lock_gives_it() -> None:
    """All that its packages need, with version, licence and hashes; nothing else."""
    found = json.loads(sbom("loadbalancer", "container").stdout)

    names = {component["name"] for component in found["components"]}
    lock = (ROOT / "3rdparty/python/servekit.lock").read_text()
    assert {"msgspec", "xxhash", "dnspython", "typer", "click"} & names >= {"msgspec", "typer"}
    assert not {"fastapi", "modal", "pytest", "numpy", "colorama"} & names
    for component in found["components"]:
        assert f"{component['name']}=={component['version']}" in lock.lower()
        assert component["licenses"]
        assert component["externalReferences"]
    refs = {component["bom-ref"] for component in found["components"]}
    assert {one["ref"] for one in found["dependencies"]} - refs == {"pkg:pypi/servekit@0.1.0"}
    assert {ref for one in found["dependencies"] for ref in one["dependsOn"]} == refs
    assert found["metadata"]["component"]["type"] == "container"


def test_the_same_lock_gives_the_same_bytes() -> None:
    """A number or a time of the run would make each release a new one."""
    assert sbom("bench").stdout == sbom("bench").stdout
    assert sbom("bench").stdout != sbom("loadbalancer").stdout


@pytest.mark.parametrize("args", [(), ("no-such-extra",), ("bench", "planet")])
def test_an_unknown_program_is_refused(args: tuple[str, ...]) -> None:
    """With those that there are."""
    result = sbom(*args)

    assert (result.returncode, result.stdout) == (2, "")
    assert "loadbalancer" in result.stderr
