"""The release of vLLM that a simulated engine stands for.  Pure."""

import re
from dataclasses import dataclass

from servekit.errors.tree import SettingInvalid

_PATTERN = re.compile(r"(\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True, order=True)
class VllmVersion:
    """A release, such as 0.32.0."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def counts_failed_lookups(self) -> bool:
        """Whether vllm:prefix_cache_queries grows at each step that has no room for a request.

        Seen with 0.26; 0.32 counts once, when a request is admitted (Scheduler.schedule).
        """
        return self < VllmVersion(0, 27, 0)


# The release whose interface is followed.
VLLM_VERSION = VllmVersion(0, 32, 0)


def read_vllm_version(text: str) -> VllmVersion:
    """Return the release that *text* names.

    Raises:
        SettingInvalid: it names none.
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise SettingInvalid(f"vLLM version {text!r} is invalid; write one such as {VLLM_VERSION}")
    return VllmVersion(*map(int, match.groups()))
