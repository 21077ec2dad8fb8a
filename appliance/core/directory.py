"""Clients of a directory server: the one that writes, and anonymous ones that read.

The writer uses LDAP over the server's unix socket, as the user that runs the server. There is no
password: the kernel reports the user at the other end of the socket (SASL EXTERNAL), and the
server's configuration lets that user write. All others read over TCP, anonymously: `read`.

This is the only module that imports ldap3, and it does so when a connection is made.
"""

from __future__ import annotations

import contextlib
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from appliance.core import hosts
from appliance.core.ldif import Entry
from appliance.core.run.errors import ApplianceError, Unavailable

NO_SUCH_OBJECT = 32
NO_SUCH_VALUE = 16
RELAX = "1.3.6.1.4.1.4203.666.5.12"
"""Control with which slapd lets its owner change the object class of an entry in place."""
_PROTOCOL_ERROR = 2


class Refused(ApplianceError):
    """The server refused an operation. ``code`` is LDAP's result code (RFC 4511, appendix A)."""

    def __init__(self, dn: str, code: int, text: str) -> None:
        super().__init__(dn, f"refused by the directory: {text} ({code})")
        self.code = code


class NoAnswer(Unavailable):
    """The connection broke, or the server did not answer in time."""


class Directory:
    """A connection, open until `close` or the end of the ``with`` block.

    ``timeout`` limits the wait for each answer. All methods raise `NoAnswer` if the connection
    breaks; the operation may have been done or not.
    """

    def __init__(self, socket: Path, *, timeout: timedelta = timedelta(seconds=30)) -> None:
        self._ldap3, self._errors = _import()
        self._socket = socket
        seconds = max(1, round(timeout.total_seconds()))
        server = self._ldap3.Server(
            f"ldapi://{quote(str(socket))}", get_info=self._ldap3.NONE, connect_timeout=seconds
        )
        self._connection = self._ldap3.Connection(
            server,
            authentication=self._ldap3.SASL,
            sasl_mechanism=self._ldap3.EXTERNAL,
            # Empty, not absent: without credentials slapd waits for a second step of SASL.
            sasl_credentials="",
            receive_timeout=seconds,
            check_names=False,
            auto_encode=False,
            auto_range=False,
        )
        try:
            if not self._call("bind"):
                words = self._connection.result["description"]
                raise Unavailable(
                    socket, f"the directory refuses this user: {words}", "restart the BDII"
                )
        except Unavailable:
            self.close()
            raise

    def add(self, entry: Entry) -> None:
        """Add an entry; raises `Refused`."""
        self._change(
            "add",
            entry.dn,
            None,
            {name: _encoded(values) for name, values in entry.attributes.items()},
        )

    def modify(self, dn: str, changes: Mapping[str, Sequence[str]]) -> None:
        """Replace the values of attributes; an attribute without values is removed.

        Raises:
            Refused: the server does not do it.

        """
        replace = self._ldap3.MODIFY_REPLACE
        changes_class = any(name.lower() == "objectclass" for name in changes)
        self._change(
            "modify",
            dn,
            {name: [(replace, _encoded(values))] for name, values in changes.items()},
            controls=[(RELAX, True, None)] if changes_class else None,
        )

    def delete(self, dn: str) -> None:
        """Remove an entry that has no entries below it; raises `Refused`."""
        self._change("delete", dn)

    def close(self) -> None:
        """Close the connection, which may be broken or closed already."""
        with contextlib.suppress(self._errors.LDAPException, OSError):
            self._connection.unbind()
        # ldap3 leaves the socket open if it could not connect, or if the server closed it.
        if self._connection.socket is not None:
            self._connection.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _change(self, operation: str, dn: str, *arguments: Any, **options: Any) -> None:
        try:
            self._call(operation, dn, *arguments, **options)
        # ldap3 cannot encode the request, such as a name that is not a distinguished name.
        except (ValueError, TypeError, self._errors.LDAPException) as error:
            raise Refused(dn, _PROTOCOL_ERROR, f"cannot be sent: {error}") from error
        result = self._connection.result
        if result["result"]:
            text = result["message"] or result["description"]
            raise Refused(dn, result["result"], text)

    def _call(self, operation: str, *arguments: Any, **options: Any) -> Any:
        try:
            return getattr(self._connection, operation)(*arguments, **options)
        except (
            self._errors.LDAPCommunicationError,
            self._errors.LDAPResponseTimeoutError,
            OSError,
        ) as error:
            raise NoAnswer(self._socket, f"the directory does not answer: {error}") from error


def read(
    host: str,
    *,
    port: int,
    base: str,
    filter_: str = "(objectClass=*)",
    attributes: Sequence[str] = ("*",),
    is_base_only: bool = False,
    timeout: timedelta = timedelta(seconds=30),
) -> list[Entry]:
    """Search anonymously over TCP, in a subtree or only at its base.

    Raises:
        Refused: the server answers with an error, such as an unknown base.
        Unavailable: the server cannot be reached, or does not answer in time.

    """
    ldap3, errors = _import()
    seconds = max(1, round(timeout.total_seconds()))
    scope = ldap3.BASE if is_base_only else ldap3.SUBTREE
    server = ldap3.Server(host, port=port, get_info=ldap3.NONE, connect_timeout=seconds)
    connection = ldap3.Connection(
        server, receive_timeout=seconds, check_names=False, auto_range=False
    )
    try:
        connection.open()
        connection.search(base, filter_, search_scope=scope, attributes=list(attributes))
        result, response = connection.result, connection.response or []
    except errors.LDAPInvalidFilterError as error:
        raise Refused(
            base, _PROTOCOL_ERROR, f"cannot be sent: {filter_!r} is not a filter"
        ) from error
    except (errors.LDAPException, OSError) as error:
        subject = hosts.join_port(host, port)
        words = f"the directory does not answer: {error}"
        raise Unavailable(subject, words, "check host and port, and that the BDII runs") from error
    finally:
        with contextlib.suppress(errors.LDAPException, OSError):
            connection.unbind()
        if connection.socket is not None:
            connection.socket.close()
    if result["result"]:
        raise Refused(base, result["result"], result["message"] or result["description"])
    return list(_entries(response))


def try_to_write(host: str, port: int, dn: str, *, timeout: timedelta) -> int:
    """Return LDAP's result code for an anonymous change of an entry that cannot succeed.

    It deletes a value that the entry does not have. A server that allows such changes answers
    `NO_SUCH_VALUE`, one that does not looks no further; in both cases nothing changes.

    Raises:
        Unavailable: the server cannot be reached, or does not answer in time.

    """
    ldap3, errors = _import()
    seconds = max(1, round(timeout.total_seconds()))
    server = ldap3.Server(host, port=port, get_info=ldap3.NONE, connect_timeout=seconds)
    connection = ldap3.Connection(server, receive_timeout=seconds, check_names=False)
    try:
        connection.open()
        value = f"fedcloud-check-{uuid.uuid4()}"
        connection.modify(dn, {"description": [(ldap3.MODIFY_DELETE, [value])]})
        return int(connection.result["result"])
    except (errors.LDAPException, OSError) as error:
        subject = hosts.join_port(host, port)
        words = f"the directory does not answer: {error}"
        raise Unavailable(subject, words, "check host and port, and that the BDII runs") from error
    finally:
        with contextlib.suppress(errors.LDAPException, OSError):
            connection.unbind()
        if connection.socket is not None:
            connection.socket.close()


def why_silent(host: str, port: int, *, timeout: timedelta) -> str:
    """Ask for the entry o=glue as clients do; return why there is no answer, empty if there is."""
    try:
        # "1.1" asks for no attributes (RFC 4511, 4.5.1.8)
        read(host, port=port, base="o=glue", attributes=["1.1"], is_base_only=True, timeout=timeout)
    except ApplianceError as error:
        return error.cause
    return ""


def _import() -> tuple[Any, Any]:
    with warnings.catch_warnings():  # ldap3 uses names that pyasn1 has renamed
        warnings.simplefilter("ignore", DeprecationWarning)
        import ldap3  # noqa: PLC0415  start-up is a cost
        from ldap3.core import exceptions  # noqa: PLC0415
    return ldap3, exceptions


def _encoded(values: Sequence[str]) -> list[bytes]:
    return [value.encode("utf-8", "surrogateescape") for value in values]


def _entries(response: Sequence[Mapping[str, Any]]) -> Iterator[Entry]:
    for found in response:
        if found["type"] == "searchResEntry":  # others are references to other servers
            dn = found["raw_dn"].decode("utf-8", "surrogateescape")
            yield Entry(dn, _texts(found["raw_attributes"]))


def _texts(attributes: Mapping[str, Sequence[bytes]]) -> dict[str, tuple[str, ...]]:
    return {
        name: tuple(value.decode("utf-8", "surrogateescape") for value in values)
        for name, values in attributes.items()
    }
