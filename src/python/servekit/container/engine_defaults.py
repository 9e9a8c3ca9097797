"""What every engine behind a front is told, and where it may call home.  Pure."""

from pathlib import PurePosixPath

# The same in every container: HOME is part of the compile cache's key.
ENGINE_HOME = PurePosixPath("/tmp/engine-home")  # noqa: S108  (in the container)

# uvicorn's own limit is 5 s; a request that we relay on an idle connection must not meet its end.
ENGINE_KEEP_ALIVE_S = 75

ENGINE_DEFAULTS = {
    # Silence c10d's warning about destroy_process_group() and OpenTelemetry's about trace context.
    "TORCH_DISTRIBUTED_DEBUG": "OFF",
    "OTEL_SDK_DISABLED": "true",
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(ENGINE_KEEP_ALIVE_S),
}
