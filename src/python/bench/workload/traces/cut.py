"""Cut the slice of the Mooncake conversation trace that is kept here.  Pure but for `main`."""

import itertools
import json
import sys
from collections.abc import Iterable, Iterator

MAX_TOKENS = 8192
REQUESTS = 3000


def cut(
    lines: Iterable[str], max_tokens: int = MAX_TOKENS, requests: int = REQUESTS
) -> Iterator[str]:
    """Yield the first *requests* lines that fit *max_tokens*, prompt and output, as they are."""
    return itertools.islice((line for line in lines if _tokens(line) <= max_tokens), requests)


def _tokens(line: str) -> int:
    request = json.loads(line)
    return int(request["input_length"] + request["output_length"])


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as trace:  # noqa: PTH123
        sys.stdout.writelines(cut(trace))


if __name__ == "__main__":
    main()
