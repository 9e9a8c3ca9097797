"""Break files one at a time, and see whether the tests that fail are the ones that are selected.

    python -m tests.build_support.prove_selection record FOLDER      # which files does a test touch
    python -m tests.build_support.prove_selection mutate FOLDER [--files 60] [--seed 1]

`record` runs every test file by itself, with an audit hook in all its Python processes, and keeps
the files of the repository that it opened or started.  `mutate` plants a break in one file after
another, in a copy of the repository: tests that are selected, that were recorded to touch the file,
and two others are run.  The table of docs/ci.md is what it printed.  Runs processes for an hour.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BYSTANDERS = 2
PATIENCE_S = 20.0
AT_ONCE = 4

# Loaded by every Python process of a recorded test, as `sitecustomize`.
HOOK = """
import os, sys, threading
out, root = os.environ["TOUCHED_OUT"], os.environ["TOUCHED_ROOT"] + "/"
seen, busy = set(), threading.local()
STARTS = ("subprocess.Popen", "os.posix_spawn", "os.exec")
def note(word):
    path = os.path.normpath(os.path.join(os.getcwd(), os.fsdecode(word)))
    if path.startswith(root) and path not in seen and os.path.isfile(path):
        seen.add(path)
        with open(out, "a") as file:
            file.write(path[len(root):] + "\\n")
def hook(event, args):
    if event not in ("open", *STARTS) or getattr(busy, "on", 0):
        return
    busy.on = 1
    try:
        words = [args[0]] if event == "open" else list(args[1] or ())
        for word in words:
            if isinstance(word, (str, bytes, os.PathLike)):
                note(word)
    except Exception:
        pass
    finally:
        busy.on = 0
sys.addaudithook(hook)
"""


def broken_json(text: str) -> str:
    return text.replace(":", ";", 1) if ":" in text else "{" + text


# Kind -> where its files are, and what breaks one of them.
KINDS: dict[str, tuple[str, int, Callable[[str], str]]] = {
    "Python, a library": (r"src/python/servekit/.+\.py", 12, lambda text: text + "\n)\n"),
    "Python, a deployable": (r"src/python/(?!servekit).+\.py", 14, lambda text: text + "\n)\n"),
    "Python, a test's helper": (r"tests/(?!.*test_).+[a-z]\.py", 6, lambda text: text + "\n)\n"),
    "a test": (r"tests/.+/test_\w+\.py", 4, lambda text: text + "\n)\n"),
    "JSON, JSON lines": (r"(src|tests)/.+\.jsonl?", 5, broken_json),
    "YAML": (r"src/.+\.ya?ml", 6, lambda text: "]: {\n" + text),
    "Terraform": (r"src/terraform/.+\.tf", 4, lambda text: text + "\n}}\n"),
    "a shell script": (r"(src|scripts|build-support)/.+\.sh", 3, lambda text: text + "\nfi\n"),
    "a golden text": (r"tests/golden/.+\.txt", 3, lambda _: "gone\n"),
    "a page of docs": (r"docs/(adr/[0-9].+|architecture|versions)\.md", 2, lambda _: "gone\n"),
    "a README": (r"(README|CONTRIBUTING)\.md", 1, lambda text: text.replace("e", "x", 1)),
}


@dataclass(frozen=True, slots=True)
class Graph:
    """Pants' targets: who owns a file, who depends on whom, and which are tests."""

    owners: dict[str, set[str]]
    dependents: dict[str, set[str]]
    tests: dict[str, str]
    slow: set[str]

    @classmethod
    def read(cls, peek: Iterable[dict[str, object]]) -> "Graph":
        owners, dependents = defaultdict(set), defaultdict(set)
        tests, slow = {}, set()
        for target in peek:
            address = str(target["address"])
            for path in target.get("sources") or ():  # type: ignore[attr-defined]
                owners[path].add(address)
            for name in target.get("dependencies") or ():  # type: ignore[attr-defined]
                dependents[name].add(address)
            if target["target_type"] == "python_test":
                tests[address] = next(iter(target["sources"]))  # type: ignore[call-overload]
                if target.get("batch_compatibility_tag"):
                    slow.add(tests[address])
        return cls(owners, dependents, tests, slow)

    def selected(self, path: str) -> set[str]:
        """Test files that depend on *path*."""
        found = set(self.owners.get(path, ()))
        fresh = set(found)
        while fresh:
            fresh = {user for name in fresh for user in self.dependents.get(name, ())} - found
            found |= fresh
        return {self.tests[address] for address in found if address in self.tests}


def environ_of(root: Path, *folders: Path) -> dict[str, str]:
    path = os.pathsep.join(map(str, (*folders, root / "src/python", root)))
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def tracked(root: Path) -> list[str]:
    listed = subprocess.run(
        ("git", "ls-files"),  # noqa: S607
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    return listed.stdout.split()


def test_files(root: Path) -> list[str]:
    return [path for path in tracked(root) if re.fullmatch(r"tests/.*test_\w+\.py", path)]


def record(folder: Path) -> None:
    """Run each test file and write the files that it touched to FOLDER/touched.json."""
    touched = {}
    (folder / "sitecustomize.py").write_text(HOOK)
    for test in test_files(ROOT):
        out = folder / "out"
        out.write_text("")
        where = {"TOUCHED_OUT": str(out), "TOUCHED_ROOT": str(ROOT)}
        subprocess.run(  # noqa: S603
            (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test),
            cwd=ROOT,
            env={**environ_of(ROOT, folder), **where},
            check=False,
        )
        touched[test] = sorted(set(out.read_text().split("\n")) - {""})
    (folder / "touched.json").write_text(json.dumps(touched, indent=1))


def failing(root: Path, tests: Iterable[str]) -> set[str]:
    """Those of *tests* that fail: all are collected, and those that can be are run by themselves.

    Each until its first failure, and for PATIENCE_S at most: one that takes longer has not failed.
    """
    names = sorted(tests)
    found = _failed(root, names, ("--collect-only", "--continue-on-collection-errors"), 300.0)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = (
            pool.submit(_failed, root, [name], ("-x",), PATIENCE_S) for name in set(names) - found
        )
        return found.union(*(run.result() for run in list(runs)))


def _failed(root: Path, names: list[str], options: Iterable[str], timeout_s: float) -> set[str]:
    common = ("-q", "-p", "no:cacheprovider")
    process = subprocess.Popen(  # noqa: S603
        (sys.executable, "-m", "pytest", *common, *options, *names),
        cwd=root,
        env=environ_of(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return set()
    if process.returncode in (0, 5):
        return set()
    if len(names) == 1:
        return set(names)
    return {name for name in names if re.search(rf"^ERROR {re.escape(name)}", said, re.MULTILINE)}


def chosen(root: Path, count: int, seed: int, kinds: str) -> list[tuple[str, str]]:
    """Kind and path of the files to break, by the shares of KINDS."""
    listed = tracked(root)
    picker = random.Random(seed)
    found = []
    for kind, (pattern, share, _) in KINDS.items():
        fits = [path for path in listed if re.fullmatch(pattern, path)]
        fits = [path for path in fits if (root / path).stat().st_size and "__init__" not in path]
        taken = picker.sample(fits, min(share, len(fits)))
        found += [(kind, path) for path in taken if re.search(kinds, kind)]
    return found[:count]


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  # this program's result


def mutate(folder: Path, count: int, seed: int, kinds: str) -> int:
    """Print a row for each file; exit code 1 if a test failed that was not selected."""
    touched = {t: set(f) for t, f in json.loads((folder / "touched.json").read_text()).items()}
    root = Path(tempfile.mkdtemp(dir=folder)) / "copy"
    subprocess.run(("git", "clone", "-q", "--shared", ROOT, root), check=True)  # noqa: S603, S607
    peek = folder / "peek.json"
    if not peek.exists():
        said = subprocess.run(("./pants", "peek", "::"), cwd=ROOT, check=True, capture_output=True)
        peek.write_bytes(said.stdout)
    graph = Graph.read(json.loads(peek.read_text()))
    fast = set(test_files(root)) - graph.slow
    picker = random.Random(seed)
    missed, sums = 0, [0, 0]
    say("| kind | file | selected | failed | not selected | slow |\n|---|---|---|---|---|---|")
    for kind, path in chosen(root, count, seed, kinds):
        selected = graph.selected(path)
        near = {test for test, files in touched.items() if path in files} & fast
        others = sorted(fast - selected - near)
        tests = (selected & fast) | near | set(picker.sample(others, BYSTANDERS))
        before = (root / path).read_text()
        (root / path).write_text(KINDS[kind][2](before))
        failed = failing(root, tests)
        (root / path).write_text(before)
        escaped = failed - selected
        sums[0] += len(selected & fast)
        sums[1] += len(failed & selected)
        missed += len(escaped)
        cells = (len(selected & fast), len(failed & selected), len(escaped), len(selected - fast))
        say(f"| {kind} | `{path}` | {' | '.join(map(str, cells))} |")
        idle = sorted((selected & fast) - failed)
        sys.stderr.write(f"{path}: escaped {sorted(escaped)}; selected in vain {idle}\n")
    share = sums[1] / sums[0]
    say(f"\n{sums[1]} of {sums[0]} selected tests failed: precision {share:.0%}; {missed} escaped")
    return 1 if missed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["record", "mutate"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default="", help="Only kinds that this expression is found in.")
    asked = parser.parse_args()
    if asked.what == "record":
        record(asked.folder.resolve())
        return 0
    return mutate(asked.folder.resolve(), asked.files, asked.seed, asked.kinds)


if __name__ == "__main__":
    sys.exit(main())
