"""The model's folder: where it lies, or in our cache after a download."""

from collections.abc import Mapping
from pathlib import Path

from modal_embedding.engine.settings import EmbeddingSettings
from servekit.timing.clock import Clock
from servekit.weights.cache import Cache
from servekit.weights.download import RangedDownload, open_session
from servekit.weights.hub import HubDownload
from servekit.weights.model import Fetchers, ensure_model
from servekit.weights.progress import ProgressReporter
from servekit.weights.source import HubRepo, Source, parse_source


async def bring_model(
    settings: EmbeddingSettings,
    folder: Path,
    environ: Mapping[str, str],
    *,
    clock: Clock,
    report: ProgressReporter,
) -> Path:
    """Return the folder of the model; *folder* keeps what had to be fetched.

    Raises:
        WeightsMissing: there is no such model or revision, or it is gated.
        WeightsUnreachable: it could not be brought.
    """
    hub = HubDownload(environ.get("HF_TOKEN"), environ.get("HF_ENDPOINT"))
    async with open_session() as session:
        download = RangedDownload(session, clock=clock, report=report)
        fetchers = Fetchers.of(download, hub, environ)
        cache = Cache(store=folder, checkpoints=folder)
        source = _source(settings)
        return await ensure_model(source, cache, fetchers, clock=clock, report=report)


def _source(settings: EmbeddingSettings) -> Source:
    source = parse_source(settings.model_name)
    if isinstance(source, HubRepo) and settings.model_revision:
        return HubRepo(source.repo_id, settings.model_revision)
    return source
