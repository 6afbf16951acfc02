"""Every error that Trunkline raises on purpose.

    TrunklineError            500 api_error
    ├── InvalidRequest        400 invalid_request_error
    ├── Unauthenticated       401 authentication_error
    ├── Forbidden             403 permission_error
    ├── NotFound              404 not_found_error
    ├── Conflict              409 conflict_error         details: the current state
    ├── TooLarge              413 request_too_large
    ├── Unavailable           503 overloaded_error       worth trying again
    ├── NotServed             501 not_served_error       known, but not built yet
    ├── Internal              500 api_error
    └── SetupError            never on the wire: the command line prints it in one line

The message is for the person who has to act: what was wrong, where, and what to do next.
"""

from __future__ import annotations

from typing import Any, ClassVar


class TrunklineError(Exception):
    """An error with the HTTP status and wire type that a client sees.

    `param` names the input at fault (`memory.blocks.customer`), `code` is a stable word for programs, and `details` are
    further members of the wire's `error` object.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.details = details

    def to_wire(self, request_id: str) -> dict[str, Any]:
        """Return the control plane's error body: `{"type": "error", "error": {"type", "message", …}, "request_id"}`."""
        error: dict[str, Any] = dict(self.details or {})
        if self.param is not None:
            error["param"] = self.param
        if self.code is not None:
            error["code"] = self.code
        error |= {"type": self.type, "message": self.message}
        return {"type": "error", "error": error, "request_id": request_id}


class InvalidRequest(TrunklineError):
    """The request is malformed or breaks a rule; sending it again changes nothing."""

    status = 400
    type = "invalid_request_error"


class Unauthenticated(TrunklineError):
    """No key, or none that Trunkline knows."""

    status = 401
    type = "authentication_error"


class Forbidden(TrunklineError):
    """The key is good, but not for this."""

    status = 403
    type = "permission_error"


class NotFound(TrunklineError):
    """There is no such thing in this tenant; that it may exist in another is never told."""

    status = 404
    type = "not_found_error"


class Conflict(TrunklineError):
    """A precondition does not hold, or the thing exists already; `details` carries the current state."""

    status = 409
    type = "conflict_error"


class TooLarge(TrunklineError):
    """The body or a value in it is over its limit."""

    status = 413
    type = "request_too_large"


class Unavailable(TrunklineError):
    """Something that Trunkline needs is away for the moment; the same request may succeed later."""

    status = 503
    type = "overloaded_error"


class NotServed(TrunklineError):
    """The wire that Trunkline follows has this, and Trunkline does not serve it yet; `what` is its name."""

    status = 501
    type = "not_served_error"

    def __init__(self, what: str, *, param: str | None = None) -> None:
        super().__init__(
            f"Trunkline does not serve {what} yet; leave it out of the request.", param=param, code="not_served"
        )


class Internal(TrunklineError):
    """A fault of Trunkline itself."""


class SetupError(TrunklineError):
    """The installation, its settings or its database are not as they must be to start."""

    type = "setup_error"
