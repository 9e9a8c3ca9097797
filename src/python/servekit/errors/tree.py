"""The errors of servekit, by who must act.  Pure.

    ServeError
      ConfigError         the operator must act
        SettingInvalid      a variable, a flag or an address that cannot be used
        FleetInvalid        a fleet file that contradicts itself
        PolicyUnknown       a routing policy that does not exist
        WorkloadInvalid     a trace or workload that cannot be replayed
        WeightsMissing      weights that are nowhere, or are no model
        WeightsRefused      an archive that is cut, hostile or too large
        WeightsUnreachable  weights that could not be downloaded
        CacheRefused        a compile cache that is not for this engine, or is damaged
        DeviceMissing       no GPU, or none that this engine was built for
      RequestError        the client must act
        RequestInvalid      not JSON, or not what the endpoint takes
        RequestTooLarge     a body beyond the limit
        ModelUnknown        a model that no replica serves
        ResponseUnknown     a response that no replica keeps
        PromptTooLong       more tokens than max_model_len
        PromptBlank         nothing to continue
        TemplateLacksPrompt a prompt template that would drop the prompt
        TemplateInvalid     a prompt template that cannot be rendered
      EngineError         the engine failed
        EngineUnreachable   no connection
        EngineTimeout       connected, but no answer in time
        EngineRefused       answered with an error status; carries it
        StreamCut           the stream broke after its first byte
        EngineExited        the process is gone
        EngineNotReady      not serving in the time it was given
        EngineHung          it takes requests, and answers none
        ReplicaMissing      no healthy replica of the model, or none with room
        ShortOfResources    this process is out of file descriptors, ports or memory
        MetricsInvalid      /metrics is not a Prometheus exposition

A message has the fact, the value and the remedy, in one line.
"""


class ServeError(Exception):
    """Anything servekit raises on purpose."""


class ConfigError(ServeError):
    """The operator must act."""


class SettingInvalid(ConfigError):
    """A variable, a flag or an address cannot be used."""


class FleetInvalid(ConfigError):
    """A fleet file contradicts itself."""


class PolicyUnknown(ConfigError):
    """No routing policy has this name."""


class WorkloadInvalid(ConfigError):
    """A trace or workload cannot be replayed."""


class WeightsMissing(ConfigError):
    """The weights are nowhere, or are no model."""


class WeightsRefused(ConfigError):
    """An archive is cut, hostile or too large."""


class WeightsUnreachable(ConfigError):
    """The weights could not be downloaded."""


class CacheRefused(ConfigError):
    """A compile cache is not for this engine, or is damaged."""


class DeviceMissing(ConfigError):
    """There is no GPU, or none that the engine was built for."""


class RequestError(ServeError):
    """The client must act."""


class RequestInvalid(RequestError):
    """The request is not JSON, or not what the endpoint takes."""


class RequestTooLarge(RequestError):
    """The body is larger than the limit."""


class ModelUnknown(RequestError):
    """No replica serves the model."""


class ResponseUnknown(RequestError):
    """No replica keeps the response."""


class PromptTooLong(RequestError):
    """The prompt has more tokens than max_model_len."""


class PromptBlank(RequestError):
    """There is nothing to continue."""


class TemplateLacksPrompt(RequestError):
    """A prompt template would drop the prompt."""


class TemplateInvalid(RequestError):
    """A prompt template cannot be rendered."""


class EngineError(ServeError):
    """The engine failed."""


class EngineUnreachable(EngineError):
    """The engine cannot be connected to."""


class EngineTimeout(EngineError):
    """The engine was connected, but did not answer in time."""


class EngineRefused(EngineError):
    """The engine answered with an error status.

    Attributes:
        status: the HTTP status, 400 to 599.
    """

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class StreamCut(EngineError):
    """The stream broke after its first byte."""


class EngineExited(EngineError):
    """The engine's process is gone."""


class EngineNotReady(EngineError):
    """The engine did not serve in the time it was given."""


class EngineHung(EngineError):
    """The engine takes requests, and answers none."""


class ReplicaMissing(EngineError):
    """The model has no healthy replica, or none that takes requests now.

    Attributes:
        retry_after_s: when one does; None where it is unknown.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ShortOfResources(EngineError):
    """The engine could not be asked: this process is out of file descriptors, ports or memory."""


class MetricsInvalid(EngineError):
    """A /metrics body is not a Prometheus exposition."""
