"""`extract`: write schemas/*.json.xz from a provider's wheel of bindings.

pip download --no-deps cdktf-cdktf-provider-aws==21.22.1
pants run tests/terraform:extract -- *.whl tests/terraform/schemas/aws.json.xz
"""

import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from servekit.cli.program import run_program
from servekit.errors.tree import SettingInvalid
from tests.terraform.bindings import Bindings
from tests.terraform.schemas import ProviderSchema

app = typer.Typer(add_completion=False)

_PARTS = {"Resource": "resource_schemas", "DataSource": "data_source_schemas"}


@app.command()
def extract(
    wheel: Annotated[Path, typer.Argument(help="a wheel of cdktf-cdktf-provider-*")],
    to: Annotated[Path, typer.Argument(help="the file to write, NAME.json.xz")],
) -> None:
    """Read every resource of a provider, and keep what Terraform asks of a schema."""
    schema = provider_schema(wheel)
    text = json.dumps(schema, separators=(",", ":"), sort_keys=True).encode()
    to.write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    counted = ", ".join(f"{len(schema[part])} {part}" for part in _PARTS.values())
    typer.echo(f"{to}: {counted}, {to.stat().st_size // 1024} KiB")


def provider_schema(wheel: Path) -> ProviderSchema:
    """Return the schema of all that *wheel* binds.

    Raises:
        SettingInvalid: it is no such wheel.
    """
    schema: ProviderSchema = {"provider": None, **{part: {} for part in _PARTS.values()}}
    for javascript, declarations in folders(wheel):
        try:
            bound = Bindings(javascript, declarations)
        except ValueError:
            continue
        if bound.kind == "Provider":
            schema["provider"] = bound.schema()
        else:
            schema[_PARTS[bound.kind]][bound.name] = bound.schema()
    return schema


def folders(wheel: Path) -> Iterator[tuple[str, str]]:
    """Give JavaScript and declarations of each folder, large ones joined from their files."""
    texts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    # Unpacked first: in a compressed one, every step back would start from the beginning.
    package = gzip.decompress(_package(wheel))
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        # index.js names what index-structs/ holds, and so stands first.
        for member in sorted(archive, key=lambda it: (it.name.count("/"), it.name)):
            folder, suffix = _place(member.name)
            file = archive.extractfile(member) if suffix else None
            if file is not None:
                texts[folder][suffix].append(file.read().decode())
    for kinds in texts.values():
        yield "\n".join(kinds[".js"]), "\n".join(kinds[".d.ts"])


def _place(name: str) -> tuple[str, str]:
    """Return the folder of package/lib/FOLDER/..., and the suffix; empty for what is not read."""
    parts = name.split("/")
    index_of_structs = len(parts) == 5 and parts[-1].startswith("index.")
    if len(parts) < 4 or index_of_structs:
        return "", ""
    suffix = next((suffix for suffix in (".d.ts", ".js") if name.endswith(suffix)), "")
    return parts[2], suffix


def _package(wheel: Path) -> bytes:
    """Return the npm package inside the wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(".jsii.tgz")]
            return archive.read(name)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise SettingInvalid(
            f"{wheel} holds no bindings ({error}); take a wheel of cdktf-cdktf-provider-*"
        ) from error


if __name__ == "__main__":
    run_program(app)
