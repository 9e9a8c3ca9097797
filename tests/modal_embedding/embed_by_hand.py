"""What vLLM should answer: `python embed_by_hand.py transformers|vllm MODEL < texts.json`.

Runs in the engine's environment.  `transformers` computes last-token embeddings with plain
transformers; `vllm` loads the model through our class's engine, in this process.  Both print one
JSON list of vectors as the last line.
"""

import json
import os
import sys


def by_transformers(model_folder: str, texts: list[str]) -> list[list[float]]:
    """The last token's hidden state behind the final norm, at length 1."""
    import torch  # type: ignore[import-not-found]  # pants: no-infer-dep
    from transformers import (  # type: ignore[import-not-found]  # pants: no-infer-dep
        AutoModel,
        AutoTokenizer,
    )

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModel.from_pretrained(model_folder, dtype=torch.bfloat16).eval()
    vectors = []
    for text in texts:
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1]
        vectors.append(torch.nn.functional.normalize(hidden.float(), dim=0).tolist())
    return vectors


def by_vllm(model_folder: str, texts: list[str]) -> list[list[float]]:
    """The same as the class on Modal does, without Modal."""
    from pathlib import Path

    from modal_embedding.engine.settings import EmbeddingSettings  # pants: no-infer-dep
    from modal_embedding.engine.vllm_engine import load_vllm_engine  # pants: no-infer-dep
    from modal_embedding.messages.protocol import EmbedOptions, TextTooLong  # pants: no-infer-dep
    from modal_embedding.server.snapshot import SnapshotEmbedder  # pants: no-infer-dep
    from servekit.timing.clock import SystemClock  # pants: no-infer-dep

    settings = EmbeddingSettings(
        model_name=model_folder,
        matryoshka_dimensions=(64,),
        max_model_len=2048,
        enable_sleep_mode=False,
    )
    embedder = SnapshotEmbedder(settings, SystemClock())
    embedder.load(
        lambda: Path(model_folder),
        lambda folder: load_vllm_engine(
            settings, str(folder), kv_cache_memory_bytes=64 * 1024 * 1024, max_num_seqs=32
        ),
    )
    embedder.wake()
    try:
        embedder.embed(["ok", "x y " * 3000], EmbedOptions())
    except TextTooLong as error:
        assert (error.index, error.limit) == (1, 2048)
    else:
        raise AssertionError("a text of 12,000 tokens was taken")
    assert embedder.embed(["short"], EmbedOptions(64)).shape == (1, 64)
    vectors: list[list[float]] = embedder.embed(texts, EmbedOptions()).tolist()
    embedder.close()
    return vectors


if __name__ == "__main__":
    way = {"transformers": by_transformers, "vllm": by_vllm}[sys.argv[1]]
    print("\n" + json.dumps(way(sys.argv[2], json.load(sys.stdin))), flush=True)  # noqa: T201
    # Everything is said.  Torch's threads may abort an interpreter that takes itself down.
    os._exit(0)
