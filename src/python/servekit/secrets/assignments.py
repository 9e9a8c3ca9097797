"""Values that stand beside a name which asks for a secret.  Pure.

`NAME=value`, `name: value`, `"name": "value"`, `<name>value</name>`, `-e NAME=value`, headers, and
`{"name": "NAME", "value": "value"}`, quoted, escaped or bare.
"""

import re
from collections.abc import Iterator

from servekit.secrets.names import is_password_name, is_plain_value, is_secret_name, is_service_name
from servekit.secrets.randomness import Span, is_mixed, lowered

_COLOUR = r"(?:\x1b\[[\d;]{0,9}m){0,3}+"
_NAMED = re.compile(
    rf"(?<![\w.-])(?P<name>[\w.-]{{3,}}+)"
    rf"(?P<sep>{_COLOUR}[\\\"'`\])]{{0,4}}+[ \t]{{0,20}}+(?:=>|:=|\?=|={{1,3}}|:|%3[dD]|(?<!-)>)"
    rf"[ \t]{{0,20}}+{_COLOUR})"
)
# The other form of a pair, in JSON, YAML and XML: what a container's environment is written in.
_PAIR = re.compile(
    r"(?:n(?<![\w.-]n)ame|k(?<![\w.-]k)ey|v(?<![\w.-]v)ariable"
    r"|i(?<![\w.-]i)d)[\"']?[ \t]*+[:=]"
    r"[ \t]*+[\"']?(?P<name>[\w.-]{3,}+)"
    r"[\"']?[\s,;]*+[\"']?val(?:ue)?[\"']?[ \t]*+(?P<sep>[:=])[ \t]*+"
)
# Behind a wrapper or brackets: `Some("x")`, `SecretStr('x')`, `["x", "y"]`, b"x".
_OPENING = re.compile(r"(?:[\[{(&]|[A-Za-z_]\w{0,30}\(){0,3}+[bBrRuUfF@]{0,2}(?=\\{0,3}[\"'`])")
_QUOTED = re.compile(
    r"(?P<escapes>\\{1,3})(?P<mark>[\"'])(?P<value>[^\"'\n]*?)(?:(?P=escapes)(?P=mark)|(?=[\"'\n])|\Z)"
    r"|\"\"\"(?P<triple>[^\"]*+)|\"(?P<double>(?:[^\"\\\n]|\\.)*+)|'(?P<single>(?:[^'\\\n]|\\.)*+)"
    r"|`(?P<back>[^`\n]*+)"
)
# Marks inside of a bare value belong to it, unless another name or a blank comes after them.
_BARE = re.compile(
    r"[|>][-+]?[ \t]*+\n[ \t]*+(?P<block>[^\n]++)"
    r"|(?P<bare>(?:[^\s\"'`,;&<>]|[,;&](?![\s\"'\[{]|[\w.-]{1,60}[\"']?[=:]|\Z)|(?<=\w)[\"'](?=[\w#@!$%]))++)"
)
_REST_OF_LINE = re.compile(r"[^\n\"'`]*+")
_FIRST_WORD = re.compile(r"[ \t]{0,20}+([^\s\"'`]{1,300}+)")
_LIST = re.compile(r"\[[^\]\n]*+")
_GENERATED = re.compile(r"[\\\"'`\s]{0,4}+([A-Za-z0-9=_-]{16,}+)")
_SCHEME = re.compile(
    r"(?i)(?:bearer|basic|digest|token|api-?key|negotiate|ntlm|ssws|hmac|aws4-hmac-sha256)[ \t]+"
)
_HEADERS = re.compile(r"(?i)(?:.*-)?(?:authorization|cookie|set-cookie)")
# Before `token`, these words speak of a language's grammar.
_GRAMMAR = re.compile(
    r"(?i)(?:un)?(?:expected|recogni[sz]ed|known)|illegal|invalid|bad|missing|next|last|current|near"
    r"|first|previous|stray|empty|end"
)
_LINE_START = re.compile(
    r"[ \t]*(?:[-*$>#][ \t]+)?(?:export[ \t]+|declare -x[ \t]+|set[ \t]+|env[ \t]+)?[\"']?"
)


def assigned_values(text: str) -> Iterator[Span]:
    """Yield where values of secrets stand beside their names in *text*."""
    # The other pairs first are few; a name inside of a value that was found is looked at no more,
    # which is what keeps a line of nothing but names from being read once for each.
    pairs = _PAIR.finditer(lowered(text))
    done = 0
    for found in (*_NAMED.finditer(text), *pairs):
        if not done <= found.start() and found.re is _NAMED:
            continue
        name = text[found.start("name") : found.end("name")]
        if is_secret_name(name):
            for span in _value(text, name, found):
                yield span
                done = span[1]
        elif is_service_name(name):
            key = _GENERATED.match(text, found.end())
            if key and is_mixed(key[1]):
                yield key.span(1)


def _value(text: str, name: str, found: re.Match[str]) -> Iterator[Span]:
    start = found.end()
    opening = _OPENING.match(text, start)
    if opening and (quoted := _QUOTED.match(text, opening.end())):
        yield from _quoted(text, name, quoted, start)
        return
    if _HEADERS.fullmatch(name):
        yield from _header(text, name, start)
        return
    bare = _BARE.match(text, start)
    if bare is None:
        return
    value = bare[bare.lastgroup or 0]
    if is_plain_value(name, value) or _is_prose(text, name, found, bare):
        return
    end = bare.end()
    if is_password_name(name) and _begins_line(text, found.start("name")):
        end = _rest_of_line(text, end)
    yield bare.start(bare.lastgroup or 0), end


def _quoted(text: str, name: str, quoted: re.Match[str], start: int) -> Iterator[Span]:
    group = quoted.lastgroup or ""
    group = "value" if group == "mark" else group
    if _HEADERS.fullmatch(name):
        yield from _header(text, name, quoted.start(group))
        return
    value = quoted[group]
    first = _FIRST_WORD.match(value)
    # A sentence explains; a passphrase is one too, and asks for its name.
    is_sentence = " " in value and not is_password_name(name)
    if is_plain_value(name, value) or (is_sentence and first and is_plain_value(name, first[1])):
        return
    in_list = _LIST.match(text, start)
    yield quoted.start(group), max(quoted.end(group), in_list.end() if in_list else 0)


def _header(text: str, name: str, start: int) -> Iterator[Span]:
    scheme = _SCHEME.match(text, start)
    start = scheme.end() if scheme else start
    first = _FIRST_WORD.match(text, start)
    if first and not is_plain_value(name, first[1]):
        rest = _REST_OF_LINE.match(text, start)
        yield start, rest.end() if rest else start


def _is_prose(text: str, name: str, found: re.Match[str], bare: re.Match[str]) -> bool:
    """Return whether a bare value after a colon or a blank is the next word of a sentence."""
    value, name = bare.group(), name.lower()
    if is_mixed(value) or "=" in found["sep"]:
        return False
    if name == "pass":
        # A test's result.
        return True
    if is_password_name(name):
        return False
    before = text[max(0, found.start() - 24) : found.start("name")].split()
    if name in ("token", "tokens") and before and _GRAMMAR.fullmatch(before[-1]):
        return True
    is_word = re.fullmatch(r"[a-zA-Z][a-z'-]*[.,:;!?]?", value) is not None
    return is_word and text[bare.end() : bare.end() + 1] in (" ", ",", ".")


def _begins_line(text: str, start: int) -> bool:
    line = text.rfind("\n", max(0, start - 80), start) + 1
    return (line > 0 or start < 80) and _LINE_START.fullmatch(text, line, start) is not None


def _rest_of_line(text: str, start: int) -> int:
    """Return where a passphrase of several words ends: with the line, if that has only words."""
    rest = re.compile(r"(?:[ \t]+[A-Za-z0-9]{1,20}+){0,7}[ \t\r]*$", re.MULTILINE).match(
        text, start
    )
    return rest.end() if rest else start
