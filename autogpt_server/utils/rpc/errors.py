"""What can go wrong with a call, apart from what the called method raises."""

from autogpt_server.utils.errors import AutoGPTServerError


class ServiceUnavailable(AutoGPTServerError):
    """The service cannot be reached; it may be restarting."""

    code = "service_unavailable"
    retryable = True


class CallTimeout(AutoGPTServerError):
    """The service did not answer in time; what was asked may or may not have been done."""

    code = "call_timeout"
    retryable = True


class InvalidCall(AutoGPTServerError, TypeError):
    """A call does not fit the method it is for."""

    code = "invalid_call"


class CallRefused(AutoGPTServerError):
    """The other side does not hold this server's secret: it belongs to another server, or is nobody we know."""

    code = "call_refused"


class RemoteError(AutoGPTServerError):
    """The called service failed in a way that this process has no class for."""

    # details: `error_type`, the class name there; `error_code`, its stable code or None
    code = "remote_error"
