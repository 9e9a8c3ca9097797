"""The weights that Cog hands to `setup`, as text.  Pure."""

from cog import URLFile, URLPath

from servekit.errors.tree import WeightsMissing


def weights_text(weights: object) -> str:
    """Return the URL, path or hub id in *weights*: a URLFile, a URLPath, a path or a string.

    Raises:
        WeightsMissing: there are none.
    """
    if weights is None or weights == "":
        raise WeightsMissing(
            "no weights are given; set COG_WEIGHTS to the URL of a tarball, a folder or a hub id"
        )
    if isinstance(weights, URLFile):
        # Any other attribute of a URLFile would open the URL.
        return str(object.__getattribute__(weights, "__url__"))
    if isinstance(weights, URLPath):
        return weights.source
    return str(weights)
