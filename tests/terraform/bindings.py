"""A provider's bindings for TypeScript -> the schema of one of its resources.  Pure.

CDK for Terraform generates a folder of JavaScript and declarations for each resource.  The
JavaScript says of every attribute that can be set which type it has and whether it is a block; the
declarations say which of them are required, and which can only be read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_FIELD = re.compile(
    r'"?(?P<name>[a-z0-9_]+)"?: \{\s*value: (?P<value>.*?),\s*isBlock: (?P<block>true|false),'
    r'\s*type: "(?P<kind>\w+)",\s*storageClassType: "(?P<storage>\w+)",\s*\}',
    re.DOTALL,
)
_STRUCT = re.compile(r"function (\w+)ToHclTerraform\(struct\) \{(.*?)\n\}", re.DOTALL)
_INTERFACE = re.compile(r"export interface (\w+)(?: extends [\w.]+)? \{(.*?)\n\}", re.DOTALL)
_PROPERTY = re.compile(r"^    readonly (\w+)(\??):", re.MULTILINE)
_REFERENCE = re.compile(
    r"export declare class (\w+)OutputReference extends [\w.]+ \{(.*?)\n\}", re.DOTALL
)
_GETTER = re.compile(r"^    get (\w+)\(\): ([^;]+);", re.MULTILINE)
_CLASS = re.compile(r"class (\w+) extends cdktf\.Terraform(Resource|DataSource|Provider) ")
_TOP = re.compile(r"synthesizeHclAttributes\(\) \{(.*?)\n    \}", re.DOTALL)
_TYPE_NAME = re.compile(r'tfResourceType = "([a-z0-9_]+)"')
_SNAKE_NAMES = re.compile(r"get\w*Attribute\('([a-z0-9_]+)'\)|this, \"([a-z0-9_]+)\"")

# Functions of CDK itself, not of a struct.
_MAPPERS = {
    "list",
    "string",
    "number",
    "boolean",
    "any",
    "listMapper",
    "hashMapper",
    "objectMapper",
}

# Getters that every class has.
_OWN_GETTERS = {"cdktfProperties", "internalValue", "fqn"}

_SIMPLE = {"string": "string", "number": "number", "boolean": "bool"}

Block = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Field:
    """What can be set.

    Attributes:
        kind: simple, list, set, map or struct.
        storage: of a single value or an element: string, numberList, booleanMap, ...
        struct: the nested fields' function, without its suffix; empty where there are none.
        property: its name in TypeScript.
    """

    kind: str
    storage: str
    is_block: bool
    struct: str
    property: str


class Bindings:
    """One resource, data source or provider.

    Attributes:
        kind: Resource, DataSource or Provider.
        name: aws_vpc.
    """

    def __init__(self, javascript: str, declarations: str) -> None:
        """Read the texts of all files of the folder.

        Raises:
            ValueError: they are of none of the three kinds.
        """
        found = _CLASS.search(javascript)
        named = _TYPE_NAME.search(javascript)
        if found is None or named is None:
            raise ValueError("no resource, data source or provider")
        self.class_name, self.kind = found.groups()
        self.name = named[1]
        self._javascript = javascript
        self._body = javascript[found.start() :]
        self._structs = {name: _fields(body) for name, body in _STRUCT.findall(javascript)}
        self._required = {
            name: {prop: mark != "?" for prop, mark in _PROPERTY.findall(body)}
            for name, body in _INTERFACE.findall(declarations)
        }
        self._getters = {
            name: _GETTER.findall(body) for name, body in _REFERENCE.findall(declarations)
        }
        declared = re.search(
            rf"export declare class {self.class_name} extends cdktf\.Terraform{self.kind} "
            r"\{(.*?)\n\}",
            declarations,
            re.DOTALL,
        )
        self._top_getters = _GETTER.findall(declared[1]) if declared else []

    def schema(self) -> Block:
        """Return its block: attributes and nested blocks."""
        top = _TOP.search(self._body)
        snake = {name for pair in _SNAKE_NAMES.findall(self._body) for name in pair if name}
        return self._block(
            _fields(top[1] if top else ""),
            self._required.get(self.class_name + "Config", {}),
            self._top_getters,
            {_camel(name): name for name in snake},
        )

    def _block(
        self,
        fields: Mapping[str, Field],
        required: Mapping[str, bool],
        getters: list[tuple[str, str]],
        snake: Mapping[str, str],
    ) -> Block:
        block: Block = {"attributes": {}, "block_types": {}}
        for name, field in fields.items():
            needed = _is_required(name, field, required)
            if field.is_block and field.struct in self._structs:
                block["block_types"][name] = self._nested(name, field, needed)
            else:
                # What may be left out may be filled in by the provider; no binding says whether.
                block["attributes"][name] = {
                    "type": self._type(field),
                    "required": needed,
                    "optional": not needed,
                    "computed": not needed,
                }
        known = {_flat(name) for part in block.values() for name in part}
        for getter, kind in getters:
            if not (getter.endswith("Input") or getter in _OWN_GETTERS or getter.lower() in known):
                name = snake.get(getter) or _snake(getter)
                block["attributes"].setdefault(name, _computed(kind))
        return block

    def _nested(self, name: str, field: Field, needed: bool) -> Block:
        class_name = field.struct[:1].upper() + field.struct[1:]
        mode = {"list": "list", "set": "set", "struct": "single"}.get(field.kind, "list")
        alone = f'new {class_name}OutputReference(this, "{name}")' in self._javascript
        return {
            "nesting_mode": mode,
            "min_items": int(needed),
            "max_items": int(alone and mode != "single"),
            "block": self._block(
                self._structs[field.struct],
                self._required.get(class_name, {}),
                self._getters.get(class_name, []),
                {},
            ),
        }

    def _type(self, field: Field) -> Any:
        """Return the type in Terraform's JSON notation."""
        if field.struct in self._structs:
            nested = {
                name: self._type(inner) for name, inner in self._structs[field.struct].items()
            }
            return [_collection(field.kind), ["object", nested]]
        if field.kind == "simple":
            return _SIMPLE.get(field.storage, "dynamic")
        element = re.sub("(List|Map)$", "", field.storage)
        kind = "map" if field.kind == "map" else _collection(field.kind)
        return [kind, _SIMPLE.get(element, "string")]


def _collection(kind: str) -> str:
    return kind if kind in ("list", "set") else "list"


def _fields(text: str) -> dict[str, Field]:
    found = {}
    for match in _FIELD.finditer(text):
        value = match["value"]
        structs = [it for it in re.findall(r"(\w+)ToHclTerraform", value) if it not in _MAPPERS]
        named = re.search(r"(?:struct!?|this)\.(?:_)?(\w+)", value)
        found[match["name"]] = Field(
            match["kind"],
            match["storage"],
            match["block"] == "true",
            structs[0] if structs else "",
            named[1] if named else "",
        )
    return found


def _is_required(name: str, field: Field, required: Mapping[str, bool]) -> bool:
    wanted = (field.property.lower(), name.replace("_", ""))
    return next((mark for prop, mark in required.items() if prop.lower() in wanted), False)


def _computed(kind: str) -> dict[str, Any]:
    """Return an attribute that only the provider sets, from its getter's type."""
    return {"type": _read_type(kind), "required": False, "optional": False, "computed": True}


def _read_type(kind: str) -> Any:
    if kind == "number":
        return "number"
    if kind == "cdktf.IResolvable" or ("IResolvable" in kind and "boolean" in kind):
        return "bool"
    if kind == "string[]":
        return ["list", "string"]
    if "StringMap" in kind:
        return ["map", "string"]
    # A shape that the bindings know only as a class of accessors.
    if kind.startswith("cdktf.") or "List" in kind or "OutputReference" in kind:
        return "dynamic"
    return "string"


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def _snake(name: str) -> str:
    return re.sub("([A-Z])", lambda match: "_" + match[1].lower(), name)


def _flat(name: str) -> str:
    return _camel(name).lower()
