"""The app by its original name, from this folder of a clone:

pip install -r requirements.txt && modal token new
modal run modal_vllm_embedding_with_snapshot.py::download_model_weights
modal deploy modal_vllm_embedding_with_snapshot.py
modal run modal_vllm_embedding_with_snapshot.py
"""

import sys
from pathlib import Path

# A file that is run by its path has its own folder on the path, not the one of the packages.
sys.path.append(str(Path(__file__).resolve().parents[1]))

try:
    from modal_embedding.app import app, download_model_weights, main
except ModuleNotFoundError as error:
    sys.exit(f"{error}: pip install -r {Path(__file__).with_name('requirements.txt')}")

__all__ = ["app", "download_model_weights", "main"]
