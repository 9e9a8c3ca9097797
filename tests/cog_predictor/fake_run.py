"""The runner that is shipped, with another engine."""

# It is copied beside run.py, which is no module of the repository.
from run import Runner as Shipped  # type: ignore[import-not-found]  # pants: no-infer-dep

from tests.cog_predictor.fake_engine import import_fake


class Runner(Shipped):  # type: ignore[misc]
    import_engine = staticmethod(import_fake)
