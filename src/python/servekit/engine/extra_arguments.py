"""ENGINE_ARGS: further arguments of `vllm serve`, with the secrets taken out.  Pure.

A key on a command line can be read by every process, is logged by vLLM, and would be part of a
compile cache's key.  So `--api-key` never reaches the engine: the front asks for the key.
"""

import re
import shlex
from collections.abc import Iterable, Iterator

from servekit.errors.tree import SettingInvalid
from servekit.secrets.secret import Secret

# As argparse takes them: with - or _, and cut to what is still unambiguous.
_API_KEY = re.compile(r"--api[-_]k(e(y)?)?")
# A value may begin with a sign, as in `--seed -1`.
_FLAG = re.compile(r"--?[A-Za-z]")
_HF_TOKEN = re.compile(r"--hf[-_]t(o(k(e(n)?)?)?)?")


class ExtraArguments:
    """Arguments for the engine as they are, and the keys that were among them.

    Attributes:
        words: what is passed on.
        api_keys: what clients must present, any of them; empty lets everybody in.
        has_hub_token: whether --hf-token was there; an engine with local files needs none.
    """

    __slots__ = ("api_keys", "has_hub_token", "words")

    def __init__(self, words: Iterable[str] = ()) -> None:
        kept: list[str] = []
        keys: list[Secret] = []
        self.has_hub_token = False
        for flag, values in _options(words):
            if _API_KEY.fullmatch(flag):
                keys += [Secret(value) for value in values]
            elif _HF_TOKEN.fullmatch(flag):
                self.has_hub_token = True
            else:
                kept += ([flag] if flag else []) + values
        self.words = tuple(kept)
        self.api_keys = tuple(keys)

    @classmethod
    def from_setting(cls, text: str, name: str = "ENGINE_ARGS") -> "ExtraArguments":
        """Return what the variable *name* says.

        Raises:
            SettingInvalid: its quotes do not match.  The text is not shown: it may hold a key.
        """
        try:
            return cls(shlex.split(text))
        except ValueError as error:
            raise SettingInvalid(f"{name}: {str(error).lower()}; close the quotes") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExtraArguments) and (
            (self.words, self.api_keys) == (other.words, other.api_keys)
        )

    def __hash__(self) -> int:
        return hash((self.words, self.api_keys))

    def __repr__(self) -> str:
        return f"ExtraArguments({len(self.words)} words, {len(self.api_keys)} keys)"


def _options(words: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each flag with its values; words before the first flag belong to ''."""
    flag, values = "", list[str]()
    for word in words:
        name, equals, value = word.partition("=")
        if not _FLAG.match(word):
            values.append(word)
            continue
        yield flag, values
        secret = _API_KEY.fullmatch(name) or _HF_TOKEN.fullmatch(name)
        flag, values = (name, [value]) if equals and secret else (word, [])
    yield flag, values
