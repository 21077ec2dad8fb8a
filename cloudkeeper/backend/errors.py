"""Failures of a call, with the word of the protocol that tells them.

ApplianceError
└── Failed      says its word itself; all others get theirs from `status_of`
"""

from __future__ import annotations

from appliance.core.cloud import glance
from appliance.core.run.errors import AccessDenied, ApplianceError, LocalFailure, Unavailable
from cloudkeeper.wire.status import CallStatus

_BY_CODE = {
    glance.UNAUTHORIZED: CallStatus.AUTHENTICATION,
    glance.FORBIDDEN: CallStatus.USER_NOT_AUTHORIZED,
    glance.NOT_FOUND: CallStatus.RESOURCE_NOT_FOUND,
    glance.CONFLICT: CallStatus.RESOURCE_STATE,
}


class Failed(ApplianceError):
    """A call that came to nothing."""

    def __init__(
        self, subject: object, cause: str, remedy: str = "", *, status: CallStatus
    ) -> None:
        super().__init__(subject, cause, remedy)
        self.outcome = status


def status_of(error: ApplianceError) -> CallStatus:
    """Return the word of the protocol for a failure."""
    match error:
        case Failed():
            return error.outcome
        case glance.Refusal():
            return _BY_CODE.get(error.code, CallStatus.RESOURCE_RETRIEVAL)
        case AccessDenied():
            return CallStatus.USER_NOT_AUTHORIZED
        case LocalFailure():
            return CallStatus.ERROR
        case Unavailable():
            return CallStatus.RESOURCE_RETRIEVAL
    return CallStatus.ERROR
