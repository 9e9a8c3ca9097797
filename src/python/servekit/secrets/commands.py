"""Secrets on command lines, in sentences and in the files of tools that use no `name=`.  Pure."""

import re
from collections.abc import Iterator

from servekit.secrets.names import is_plain_value, is_secret_name
from servekit.secrets.randomness import Span, is_mixed, lowered

_VALUE = r"(?:\\?\"(?P<double>[^\"\n]*+)|\\?'(?P<single>[^'\n]*+)|(?P<bare>[^\s\"'`<>|]++))"
# `--api-key K`, and as Python and JSON print a list of arguments: `'--api-key', 'K'`.
_FLAG = re.compile(
    rf"-(?<![\w.-]-)-?(?P<name>[A-Za-z_][\w.-]{{1,60}}+)[\"']?,?[ \t]++(?!-){_VALUE}"
)
# `ENV NAME value` of a Dockerfile, `setenv NAME value` of csh.
_DOCKERFILE = re.compile(
    rf"(?:E(?<![\w.-]E)NV|A(?<![\w.-]A)RG|s(?<![\w.-]s)etenv)[ \t]++(?P<name>\w++)[ \t]++{_VALUE}"
)
# `-u user:password`; `-u 1000:1000` is who runs a container.
_USER_FLAG = r"-(?<![\w.-]-)(?:[a-zA-Z]{0,4}[uU]|-(?:proxy-)?user|-basic-auth|-creds|-auth)"
_USER = re.compile(
    rf"{_USER_FLAG}(?:(?:[\"'],)?[ \t=]{{0,3}}+\\?[\"']"
    rf"(?P<quoted>[^\s:\"'/]{{0,80}}+:[^\n\"']++)"
    rf"|[ \t=]{{0,3}}+(?P<bare>[^\s:\"'/]{{0,80}}+:[^\s\"']++))"
)
# What takes its password by `-p`, which to others is a port or a path.
_DASH_P = re.compile(
    r"(?:s(?<![\w-]s)shpass|l(?<![\w-]l)ogin|h(?<![\w-]h)tpasswd|m(?<![\w-]m)(?:ysql|ariadb)\w{0,9}|s(?<![\w-]s)mbclient)\b"
    rf"[^\n|;&]{{0,120}}?[ \t]-[pP][ \t]*+{_VALUE}"
)
_DASH_A = re.compile(rf"redis-cli\b[^\n|;&]{{0,120}}?[ \t]-a[ \t]++{_VALUE}")
# netrc, Redis, SQL, and plain words: a word, a blank and the password.
_WORDS = re.compile(
    r"(?:l(?<![\w.-]l)ogin[ \t]++\S{1,100}+\s{1,20}+password|requirepass|masterauth"
    r"|identified"
    r"[ \t]++by(?:[ \t]++password)?"
    r"|(?:with|set)[ \t]++password(?:[ \t]++for[ \t]++\S{1,100}+)?[ \t]*+=?"
    rf"|p(?<![\w.-]p)assword)[ \t]++{_VALUE}"
)
_IS = re.compile(
    r"(?P<name>(?:p(?<![\w.-]p)ass(?:word|phrase|code)|t(?<![\w.-]t)oken|s(?<![\w.-]s)ecret"
    r"|a(?<![\w.-]a)pi[ _-]?key))"
    rf"[ \t]++(?:is|was|are)[ \t]*+:?[ \t]*+{_VALUE}"
)
# host:port:database:user:password.
_PGPASS = re.compile(
    r"^[\w.*-]{1,100}+:(?:\d{2,5}|\*):[^:\s]{1,60}+:[^:\s]{1,60}+:(?P<bare>\S++)$", re.MULTILINE
)
_SCHEME = re.compile(
    r"(?:b(?<![\w.-]b)(?:earer|asic)|s(?<![\w.-]s)sws|n(?<![\w.-]n)egotiate)[ \t]++"
    r"(?P<bare>[\w.~+/-]{8,}+=*+)(?!=?\")"
)
_SPOKEN = re.compile(r"::add-mask::(?P<bare>[^\n]++)")


def command_secrets(text: str) -> Iterator[Span]:
    """Yield where secrets stand in *text* by what a command or a sentence means."""
    lower = lowered(text)
    for rule, read in ((_FLAG, text), (_DOCKERFILE, text), (_IS, lower)):
        for found in rule.finditer(read):
            if is_secret_name(found["name"]) and not is_plain_value(
                found["name"], _told(text, found)
            ):
                yield _span(found)
    for rule in (_DASH_P, _DASH_A, _PGPASS, _SPOKEN):
        yield from map(_span, rule.finditer(text))
    for found in _WORDS.finditer(lower):
        if _is_told(found, _told(text, found)):
            yield _span(found)
    for found in _SCHEME.finditer(lower):
        if is_mixed(_told(text, found)) or re.search(r"[a-z0-9][A-Z]|=$", _told(text, found)):
            yield _span(found)
    for found in _USER.finditer(text):
        if not re.fullmatch(r"\d+:\d+|\d+:\w+", _told(text, found)):
            yield _span(found)


def _is_told(found: re.Match[str], value: str) -> bool:
    """Return whether what follows `password` is one, unlike `authentication failed`."""
    if is_plain_value("password", value):
        return False
    if _group(found) == "bare" and found.group().startswith("password"):
        return bool(re.search(r"\d", value) and re.search(r"[A-Za-z]", value))
    return True


def _told(text: str, found: re.Match[str]) -> str:
    start, end = _span(found)
    return text[start:end]


def _span(found: re.Match[str]) -> Span:
    return found.span(_group(found))


def _group(found: re.Match[str]) -> str:
    """Return which form of a value was found: they exclude one another."""
    return next(
        name
        for name in ("double", "single", "quoted", "bare")
        if name in found.re.groupindex and found[name] is not None
    )
