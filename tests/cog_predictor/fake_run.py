"""The runner that is shipped, with another engine."""

from run import Runner as Shipped  # type: ignore[import-not-found, unused-ignore]

from tests.cog_predictor.fake_engine import import_fake


class Runner(Shipped):  # type: ignore[misc, unused-ignore]
    import_engine = staticmethod(import_fake)
