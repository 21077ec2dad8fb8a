"""Failures of a call, with the word of the protocol that tells them.

ApplianceError
└── Failed      says its word itself; all others get theirs from `status_of`
"""

from __future__ import annotations

from appliance.core.cloud import glance
from appliance.core.run.errors import AccessDenied, ApplianceError, LocalFailure, Unavailable
from cloudkeeper.wire.status import Status

_BY_CODE = {
    glance.UNAUTHORIZED: Status.AUTHENTICATION,
    glance.FORBIDDEN: Status.USER_NOT_AUTHORIZED,
    glance.NOT_FOUND: Status.RESOURCE_NOT_FOUND,
    glance.CONFLICT: Status.RESOURCE_STATE,
}


class Failed(ApplianceError):
    """A call that came to nothing."""

    def __init__(self, subject: object, cause: str, remedy: str = "", *, status: Status) -> None:
        super().__init__(subject, cause, remedy)
        self.outcome = status


def status_of(error: ApplianceError) -> Status:
    """Return the word of the protocol for a failure."""
    match error:
        case Failed():
            return error.outcome
        case glance.Refusal():
            return _BY_CODE.get(error.code, Status.RESOURCE_RETRIEVAL)
        case AccessDenied():
            return Status.USER_NOT_AUTHORIZED
        case LocalFailure():
            return Status.ERROR
        case Unavailable():
            return Status.RESOURCE_RETRIEVAL
    return Status.ERROR
