"""The dry run of the sender: sign every message and print what would be sent."""

from __future__ import annotations

from appliance.core.run.errors import ExitStatus
from appliance.core.spool import Spool
from ssm import envelope
from ssm.sending.packer import Packer


def preview(
    spool: Spool, packer: Packer, *, destination: str, limit: int | None = None
) -> ExitStatus:
    """Print a line for each of at most ``limit`` messages. No lock is taken, nothing is changed."""
    status = ExitStatus.DONE
    for number, name in enumerate(spool.names()):
        if number == limit:
            break
        state = "locked by another sender"
        if not spool.is_locked(name):
            try:
                text = spool.peek(name)
                state = f"{_describe(text, packer)}, to {destination}"
            except (envelope.Unsendable, OSError) as error:
                status, state = ExitStatus.PARTLY, f"cannot be sent: {error}"
        print(f"{name}: {state}")
    for failure in spool.skipped.values():
        status = ExitStatus.PARTLY
        print(failure)
    return status


def _describe(text: bytes, packer: Packer) -> str:
    """Return the sizes of a message before and after signing.

    Raises:
        Unsendable: a part of it cannot be sent.

    """
    parts = packer.parts(text)
    size = sum(len(packer.pack(part, message_id="")) for part in parts)
    split = f" in {len(parts)} parts" if len(parts) > 1 else ""
    return f"{len(text)} bytes, {size} as sent{split}"
