"""Provider schemas: read them, and keep what a configuration speaks of."""

import json
import lzma
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "schemas"

# A schema as schemas/*.json.xz has it: "provider", "resource_schemas", "data_source_schemas".
ProviderSchema = dict[str, Any]
Block = dict[str, Any]


def provider_names() -> list[str]:
    """Return the providers whose schemas are known: aws, google."""
    return sorted(path.name.removesuffix(".json.xz") for path in FOLDER.glob("*.json.xz"))


def read_schema(provider: str) -> ProviderSchema:
    schema: ProviderSchema = json.loads(
        lzma.decompress((FOLDER / f"{provider}.json.xz").read_bytes())
    )
    return schema


def narrowed(schema: ProviderSchema, configuration: Iterable[str]) -> ProviderSchema:
    """Keep what the texts of a *configuration* name.

    Terraform asks for the schemas in every command, and reading 1581 of them takes it seconds.
    """
    words = set(re.findall(r"\w+", "\n".join(configuration)))
    return {
        "provider": schema["provider"] or {"attributes": {}, "block_types": {}},
        **{
            kind: {name: block for name, block in schema[kind].items() if name in words}
            for kind in ("resource_schemas", "data_source_schemas")
        },
    }


def cty_type(attribute: dict[str, Any], *, in_block: bool) -> Any:
    """Return the type of *attribute* in Terraform's JSON notation: "string", ["list", "string"].

    The schemas do not know the shape of some computed values; only those may stay "dynamic".
    """
    settable = attribute["required"] or attribute["optional"]
    return _without_dynamic(attribute["type"]) if in_block or settable else attribute["type"]


def _without_dynamic(kind: Any) -> Any:
    if isinstance(kind, str):
        return "string" if kind == "dynamic" else kind
    if kind[0] == "object":
        return ["object", {name: _without_dynamic(inner) for name, inner in kind[1].items()}]
    return [kind[0], _without_dynamic(kind[1])]
