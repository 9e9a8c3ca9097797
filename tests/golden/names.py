"""Which names of vLLM's our code uses, and which the captures have.  Reads files."""

import ast
import re
from dataclasses import fields
from pathlib import Path

from servekit.engine.arguments import EngineArguments

ROOT = Path(__file__).parents[2]
CAPTURES = ROOT / "tests/golden/vllm"

METRIC = re.compile(r"vllm:[a-z_]+")
VARIABLE = re.compile(r"VLLM_[A-Z0-9_]+")
ROUTE = re.compile(
    r"/(?:v1/[a-z_/]+|health|version|metrics|tokenize|detokenize|is_sleeping|sleep|wake_up)"
)

# Suffixes that the exposition adds to the name of a histogram or counter.
SAMPLES = ("_bucket", "_sum", "_count", "_created", "_total", "")


def strings_in(folder: Path) -> set[str]:
    """Every string literal of the Python code below *folder*, docstrings left out."""
    found: set[str] = set()
    for source in sorted(folder.rglob("*.py")):
        tree = ast.parse(source.read_text())
        documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        found |= {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in documented
        }
    return found


def used(pattern: re.Pattern[str], strings: set[str]) -> set[str]:
    """Literals that are such a name, and nothing but it."""
    return {string for string in strings if pattern.fullmatch(string)}


def serve_flags() -> set[str]:
    """Every flag that `EngineArguments` can write."""
    named = {"model", "extra", "served_model_names"}
    flags = {field.name for field in fields(EngineArguments)} - named
    return {"--" + name.replace("_", "-") for name in flags} | {"--served-model-name"}


def captured_metrics(*texts: str) -> set[str]:
    """Names of families and of their samples."""
    return {name for text in texts for name in METRIC.findall(text)}


def captured_routes(text: str) -> set[str]:
    return set(re.findall(r"^(?:.*Route: )?(/\S+), Methods:", text, re.MULTILINE))


def captured_flags(help_text: str) -> set[str]:
    return set(re.findall(r"--[a-z][a-z0-9-]+", help_text))


def captured_variables(text: str) -> set[str]:
    return set(re.findall(r"^[A-Z][A-Z0-9_]+$", text, re.MULTILINE))


def unknown_metrics(names: set[str], captured: set[str]) -> set[str]:
    """*names* that no family has, with or without a sample's suffix."""
    return {name for name in names if not any(name + suffix in captured for suffix in SAMPLES)}
