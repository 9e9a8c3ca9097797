"""What can be wrong with a machine that an environment is deployed to.  Pure."""

from servekit.errors.tree import ConfigError, ServeError


class ResourceTaken(ConfigError):
    """A port or a GPU, or what another environment holds."""


class DockerMissing(ConfigError):
    """Docker or Compose is not there, too old, or not started."""


class DockerFailed(ServeError):
    """Docker did not do what it was asked."""
