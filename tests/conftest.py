"""What holds for every test: the same examples in every run, however slow the machine."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "servekit",
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("servekit")
