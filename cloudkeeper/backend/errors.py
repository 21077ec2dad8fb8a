"""Failures of a call, and the status of the protocol that reports each.

ApplianceError
└── Failed      carries its own status; `status_of` finds that of all others
"""

from __future__ import annotations

from collections.abc import Mapping

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
    """A call that failed, with the status that the frontend receives.

    ``is_final`` says that the same image would be refused again; ``wants_file``, that it may
    succeed as a file, which can be sent again; ``limits_size``, that no larger image of the same
    project would be stored in this run.
    """

    def __init__(
        self,
        subject: object,
        cause: str,
        remedy: str = "",
        *,
        status: CallStatus,
        is_final: bool = False,
        wants_file: bool = False,
        limits_size: bool = False,
    ) -> None:
        super().__init__(subject, cause, remedy)
        # Not ``status``: that is the exit status of every ApplianceError.
        self.call_status = status
        self.is_final = is_final
        self.wants_file = wants_file
        self.limits_size = limits_size
        self.digests: Mapping[str, str] = {}
        """Of the data that were read, by algorithm, if they are the reason."""


def status_of(error: ApplianceError) -> CallStatus:
    """Return the status of the protocol for a failure."""
    match error:
        case Failed():
            return error.call_status
        case glance.GlanceRefusal():
            return _BY_CODE.get(error.code, CallStatus.RESOURCE_RETRIEVAL)
        case AccessDenied():
            return CallStatus.USER_NOT_AUTHORIZED
        case LocalFailure():
            return CallStatus.ERROR
        case Unavailable():
            return CallStatus.RESOURCE_RETRIEVAL
    return CallStatus.ERROR
