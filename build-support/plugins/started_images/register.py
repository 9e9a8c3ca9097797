"""`images` of a test: the images that it starts, as `images=["src/docker/simulator:image"]`.

An image is built before its tests and is no file in their sandbox, hence no dependency of theirs
that Pants would see.  This field makes it one for `dependents` and `--changed-dependents`, and for
nothing else.  Runs inside Pants, on Python 3.9.
"""

from pants.backend.python.target_types import PythonTestsGeneratorTarget, PythonTestTarget
from pants.engine.target import SpecialCasedDependencies


class StartedImages(SpecialCasedDependencies):
    """Addresses of images; what is in one is looked at where it is built, not here."""

    alias = "images"
    help = "Images that the test starts: a change of what is in one selects the test."


def rules():
    """Return what the two kinds of test targets gain."""
    return [
        PythonTestTarget.register_plugin_field(StartedImages),
        PythonTestsGeneratorTarget.register_plugin_field(StartedImages),
    ]
