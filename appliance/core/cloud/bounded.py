"""A session of requests that limits time and size of answers.

The time-out of requests limits the wait for the next byte only. A service that sends a byte now
and then would block a project for ever; one that never stops would fill the memory and end the run.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import requests
from keystoneauth1.session import TCPKeepAliveAdapter
from urllib3 import exceptions as urllib3_errors

from appliance.core import hosts
from appliance.core.proxied_session import ProxiedSession
from appliance.core.run.errors import CHECK_LOGS, Unavailable

LONGEST = timedelta(minutes=10)
"""From the header of an answer to its last byte."""
LARGEST = 256 * 2**20
"""Bytes of an answer; a page of a listing has some megabytes."""
_BLOCK = 2**16


class BoundedSession(ProxiedSession):
    """Reads each answer to its end, unless the caller asks for a stream.

    `Unavailable` is raised for an answer that takes longer than ``longest`` or has more than
    ``largest`` bytes.
    """

    def __init__(self, *, longest: timedelta = LONGEST, largest: int = LARGEST) -> None:
        super().__init__()
        self._longest, self._largest = longest, largest
        adapter = TCPKeepAliveAdapter()
        for scheme in list(self.adapters):
            self.mount(scheme, adapter)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request and read the answer."""
        is_streamed = options.get("stream", False)
        response = super().send(request, **(options | {"stream": True}))
        if not is_streamed:
            try:
                # These are the attributes that the property `content` of requests sets.
                response._content = self._read(response)  # noqa: SLF001
                response._content_consumed = True  # type: ignore[attr-defined]  # noqa: SLF001
            finally:
                response.close()  # returns a connection that was read to its end to the pool
        return response

    def _read(self, response: requests.Response) -> bytes:
        deadline = time.monotonic() + self._longest.total_seconds()
        host = hosts.of_url(response.url)
        body = bytearray()
        try:
            while block := response.raw.read1(_BLOCK, decode_content=True):
                body += block
                if len(body) > self._largest:
                    words = f"its answer has more than {self._largest >> 20} MiB"
                    raise Unavailable(host, words, CHECK_LOGS)
                if time.monotonic() > deadline:
                    seconds = f"{self._longest.total_seconds():g}"
                    words = f"its answer did not end within {seconds} s"
                    raise Unavailable(host, words, CHECK_LOGS)
        except urllib3_errors.ProtocolError as error:
            raise requests.exceptions.ConnectionError(error) from error
        except urllib3_errors.DecodeError as error:
            raise requests.exceptions.ContentDecodingError(error) from error
        except urllib3_errors.ReadTimeoutError as error:
            raise requests.exceptions.ReadTimeout(error) from error
        return bytes(body)
