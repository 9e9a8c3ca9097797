"""Let vLLM find the cuDNN and cuBLAS that came with it, rather than those of the base image.

The loader reads LD_LIBRARY_PATH once, when a process starts: to change it from within, as
cog-vllm did, helps child processes only.  Two ways work.  `serve` sets it, and then becomes the
server.  Where Cog starts the server itself, `preload_libraries` loads the libraries by their paths
before vLLM is imported, since a library that is loaded is not searched for again; and the variable
is set for the engine's own processes.
"""

import ctypes
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path

VARIABLE = "LD_LIBRARY_PATH"

# In the order in which they need one another.  One folder each in wheels for CUDA 12, one for all
# in those for CUDA 13.
_FOLDERS = ("cublas/lib", "cudnn/lib", "cu13/lib")
_LIBRARIES = ("libcublasLt.so.*", "libcublas.so.*", "libcudnn.so.*")


def library_folders(search_path: Iterable[str] = sys.path) -> tuple[Path, ...]:
    """Return the folders of NVIDIA's libraries below *search_path*, the first of each kind."""
    roots = [Path(entry or ".") / "nvidia" for entry in search_path]
    found = (
        next((root / folder for root in roots if (root / folder).is_dir()), None)
        for folder in _FOLDERS
    )
    return tuple(folder for folder in found if folder is not None)


def with_library_folders(environ: Mapping[str, str], folders: Iterable[Path]) -> dict[str, str]:
    """Return *environ* with *folders* searched first.  Twice is as good as once."""
    already = [entry for entry in environ.get(VARIABLE, "").split(":") if entry]
    ours = [str(folder) for folder in folders]
    entries = [*ours, *[entry for entry in already if entry not in ours]]
    return {**environ, **({VARIABLE: ":".join(entries)} if entries else {})}


def preload_libraries(
    environ: MutableMapping[str, str], search_path: Iterable[str] = sys.path
) -> list[str]:
    """Load NVIDIA's libraries into this process, point its children to them, and return the paths.

    A library that cannot be loaded is left to the loader, which says more about it than we could.
    """
    folders = library_folders(search_path)
    environ.update(with_library_folders(environ, folders))
    loaded = []
    for pattern in _LIBRARIES:
        for path in [path for folder in folders for path in sorted(folder.glob(pattern))]:
            try:
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            except OSError:
                continue
            loaded.append(str(path))
    return loaded
