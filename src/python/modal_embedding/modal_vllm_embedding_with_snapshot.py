"""The app by its former name: `modal deploy modal_vllm_embedding_with_snapshot.py`."""

from modal_embedding.app import app, main

__all__ = ["app", "main"]
