"""Bindings are read as the schema that they were made from."""

import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from servekit.errors.tree import SettingInvalid
from tests.terraform.bindings import Bindings
from tests.terraform.extract import app, provider_schema

# As CDK for Terraform 0.21 writes them, cut down to what is read.
JAVASCRIPT = """
function diskRuleToHclTerraform(struct) {
    const attrs = {
        days: {
            value: cdktf.numberToHclTerraform(struct.days),
            isBlock: false,
            type: "simple",
            storageClassType: "number",
        },
    };
}
class DiskRuleOutputReference extends cdktf.ComplexObject {}
class Disk extends cdktf.TerraformResource {
    constructor() {
        this._rule = new DiskRuleOutputReference(this, "rule");
    }
    get selfLink() {
        return this.getStringAttribute('self_link');
    }
    synthesizeHclAttributes() {
        const attrs = {
            name: {
                value: cdktf.stringToHclTerraform(this._name),
                isBlock: false,
                type: "simple",
                storageClassType: "string",
            },
            zone_ids: {
                value: cdktf.listMapperHcl(cdktf.stringToHclTerraform, false)(this._zoneIds),
                isBlock: false,
                type: "set",
                storageClassType: "stringList",
            },
            rule: {
                value: diskRuleToHclTerraform(this._rule.internalValue),
                isBlock: true,
                type: "list",
                storageClassType: "DiskRuleList",
            },
        };
    }
}
Disk.tfResourceType = "acme_disk";
"""

DECLARATIONS = """
export interface DiskConfig extends cdktf.TerraformMetaArguments {
    readonly name: string;
    readonly zoneIds?: string[];
    readonly rule?: DiskRule;
}
export interface DiskRule {
    readonly days: number;
}
export declare class DiskRuleOutputReference extends cdktf.ComplexObject {
    get days(): number;
    get daysInput(): number | undefined;
}
export declare class Disk extends cdktf.TerraformResource {
    get name(): string;
    get selfLink(): string;
    get sizes(): string[];
}
"""


def attribute(kind: object, needed: bool = False, *, optional: bool = True) -> dict[str, object]:
    return {
        "type": kind,
        "required": needed,
        "optional": optional and not needed,
        "computed": not needed,
    }


SCHEMA = {
    "attributes": {
        "name": attribute("string", True),
        "zone_ids": attribute(["set", "string"]),
        "self_link": attribute("string", optional=False),
        "sizes": attribute(["list", "string"], optional=False),
    },
    "block_types": {
        "rule": {
            "nesting_mode": "list",
            "min_items": 0,
            "max_items": 1,
            "block": {"attributes": {"days": attribute("number", True)}, "block_types": {}},
        },
    },
}


def test_a_resource_is_read() -> None:
    """Required and optional, nested blocks, sets, and what only the provider sets."""
    bound = Bindings(JAVASCRIPT, DECLARATIONS)

    assert (bound.kind, bound.name) == ("Resource", "acme_disk")
    assert bound.schema() == SCHEMA


def test_a_folder_without_a_resource_is_told() -> None:
    """There are indices and helpers beside the resources."""
    with pytest.raises(ValueError, match="no resource"):
        Bindings("exports.x = 1;", "")


def wheel_of(folder: Path) -> Path:
    """A wheel that binds one resource, its structs in a file of their own."""
    structs, _, rest = JAVASCRIPT.partition("class DiskRuleOutputReference")
    files = {
        "package/lib/disk/index.js": f"class DiskRuleOutputReference{rest}",
        "package/lib/disk/index.d.ts": DECLARATIONS,
        "package/lib/disk/index-structs/index.js": "not read",
        "package/lib/disk/index-structs/structs0.js": structs,
        "package/README.md": "not read",
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    path = folder / "acme.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("acme/_jsii/acme@1.0.0.jsii.tgz", gzip.compress(packed.getvalue()))
    return path


def test_a_wheel_becomes_a_file(tmp_path: Path) -> None:
    """Compressed, as schemas/ has them."""
    to = tmp_path / "acme.json.xz"

    done = CliRunner().invoke(app, [str(wheel_of(tmp_path)), str(to)])

    assert done.exit_code == 0, done.output
    written = json.loads(lzma.decompress(to.read_bytes()))
    assert written["resource_schemas"] == {"acme_disk": SCHEMA}
    assert written["data_source_schemas"] == {}


def test_another_file_is_refused(tmp_path: Path) -> None:
    """With the name of what is wanted."""
    path = tmp_path / "a.whl"
    path.write_text("no zip")

    with pytest.raises(SettingInvalid, match="take a wheel of cdktf-cdktf-provider"):
        provider_schema(path)
