"""Downloads that break, are slow or begin again: one stream, or a refusal by name. F-M8."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from appliance.core import retry
from appliance.core.download import answers, deadline, pace
from appliance.core.download.downloader import Downloader, Timeouts
from appliance.core.run.errors import AccessDenied, Unavailable
from appliance.core.trust.ca_directory import CADirectory
from tests.simulators import image_server
from tests.simulators.image_server import (
    Broken,
    Content,
    Dripping,
    ImageServer,
    Ranged,
    Ranges,
    Redirect,
    Status,
)
from tests.testbed.pki import Authority

DISK = hashlib.shake_256(b"a disk").digest(210_000)
DATE = "Mon, 30 Nov 2026 06:00:00 GMT"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority.create(tmp_path_factory.mktemp("authority") / "ca", key="ec")
    made.publish(made.directory / "certificates")
    return made


@pytest.fixture(scope="module")
def web(authority: Authority) -> Iterator[ImageServer]:
    with image_server.serve(authority.issue("localhost", key="ec")) as server:
        yield server


@pytest.fixture(scope="module")
def store(authority: Authority) -> Iterator[ImageServer]:
    """Yield a server at another port, which counts as another host."""
    host = authority.find("localhost") or authority.issue("localhost", key="ec")
    with image_server.serve(host) as server:
        yield server


@pytest.fixture(scope="module")
def client(authority: Authority) -> Downloader:
    return Downloader(CADirectory(authority.directory / "certificates"))


@pytest.fixture(autouse=True)
def _no_requests(web: ImageServer, store: ImageServer) -> None:
    web.requests.clear()
    store.requests.clear()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr(retry, "_sleep", seconds.append)
    return seconds


class Clock:
    """A clock of ``time.monotonic`` that a test sets."""

    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: made.now)
    return made


USUAL = Timeouts()


def download(client: Downloader, url: str, timeouts: Timeouts = USUAL) -> bytes:
    with client.stream(url, name="disk", timeouts=timeouts) as (_, blocks):
        return b"".join(blocks)


def ranges(web: ImageServer, path: str) -> list[tuple[str, str]]:
    """Return ``Range`` and ``If-Range`` of each request."""
    return [
        (headers.get("Range", ""), headers.get("If-Range", ""))
        for _, asked, headers in web.requests
        if asked == path
    ]


def sha256(content: bytes, directory: Path) -> str:
    path = directory / "content"
    path.write_bytes(content)
    return subprocess.run(["sha256sum", path], capture_output=True, check=True, text=True).stdout


@pytest.mark.parametrize(
    "content",
    [
        Ranged(DISK, cut=10_000),
        Ranged(DISK, cut=10_000, etag="", modified=DATE),
        Ranged(DISK, cut=10_000, etag="", modified=""),
        Ranged(DISK, cut=10_000, chunked=True),
        Ranged(DISK, cut=10_000, etag='W/"v1"'),
    ],
    ids=["etag", "date", "neither", "chunked", "weak"],
)
def test_a_download_with_twenty_cuts_ends_right(
    web: ImageServer, client: Downloader, content: Ranged, tmp_path: Path
) -> None:
    """F-M8. The server does not announce that it has ranges."""
    found = download(client, web.put("/cut", content))
    assert sha256(found, tmp_path) == sha256(DISK, tmp_path)
    asked = ranges(web, "/cut")
    assert len(asked) == 21
    validator = content.etag if content.etag.startswith('"') else content.modified
    assert asked[0] == ("", "")
    assert asked[1:] == [(f"bytes={n}0000-", validator) for n in range(1, 21)]


def test_a_reset_costs_no_more_than_what_was_not_read_yet(
    web: ImageServer, client: Downloader
) -> None:
    url = web.put("/reset", Ranged(DISK, cut=50_000, resets=True))
    assert download(client, url) == DISK
    assert 5 <= web.asked("/reset") <= 30


def test_the_consumer_sees_one_stream_and_the_whole_size(
    web: ImageServer, client: Downloader
) -> None:
    url = web.put("/stream", Ranged(DISK, cut=100_000))
    with client.stream(url, name="disk") as (size, blocks):
        assert size == len(DISK)
        assert b"".join(blocks) == DISK


def twisted(**changes: str | int) -> Callable[[Ranges, int], None]:
    """Return a change of all answers but the first."""

    def twist(answer: Ranges, number: int) -> None:
        if number:
            for name, value in changes.items():
                if name == "status":
                    answer.status = int(value)
                else:
                    answer.headers[name.replace("_", "-")] = str(value)

    return twist


def moved(start: int) -> Callable[[Ranges, int], None]:
    """Return a change of all answers but the first: another range, with the right length."""

    def twist(answer: Ranges, number: int) -> None:
        if number:
            answer.body = DISK[start:]
            answer.headers["Content-Range"] = f"bytes {start}-209999/210000"

    return twist


def whole(answer: Ranges, number: int) -> None:
    """Answer to each request with the whole file, as a server without ranges does."""
    del number
    answer.status, answer.body = 200, DISK
    answer.headers.pop("Content-Range", None)


@pytest.mark.parametrize(
    ("twist", "words"),
    [
        (twisted(Content_Range="bytes 0-9/10"), "sends the Content-Range 'bytes 0-9/10'"),
        (moved(99_999), "sends the Content-Range 'bytes 99999-209999/210000'"),
        (moved(100_001), "sends the Content-Range 'bytes 100001-209999/210000'"),
        (twisted(Content_Range="bytes 100000-209998/210000"), "sends the Content-Range"),
        (twisted(Content_Range="bytes 100000-210000/210000"), "sends the Content-Range"),
        (twisted(Content_Range="items 1"), "sends the Content-Range 'items 1'"),
        (lambda answer, _: answer.headers.pop("Content-Range", ""), "sends the Content-Range ''"),
        (
            twisted(Content_Range="bytes 100000-209999/210001"),
            "has another file now: it has 210001 bytes, and had 210000",
        ),
        (twisted(ETag='"v2"'), """has another file now: its ETag is "v2", and was "v1\""""),
        (twisted(status=416), "answers 416: it has no such byte"),
    ],
    ids=[
        *("start", "earlier", "later", "shorter", "beyond", "unit", "absent"),
        *("total", "etag", "416"),
    ],
)
def test_an_answer_that_is_not_the_rest_is_refused_by_name(
    web: ImageServer,
    client: Downloader,
    twist: Callable[[Ranges, int], None],
    words: str,
) -> None:
    url = web.put("/wrong", Ranged(DISK, cut=100_000, twist=twist))
    host = web.base.partition("//")[2]
    with pytest.raises(Unavailable) as caught:
        download(client, url)
    assert str(caught.value).startswith(f"disk: cannot be resumed at byte 100000: {host} {words}")
    assert str(caught.value).endswith("; the next run starts again")
    assert web.asked("/wrong") == 2


def test_a_file_that_changes_between_two_requests_is_refused(
    web: ImageServer, client: Downloader
) -> None:
    """If-Range makes the server send the new file from its beginning; it has the same size."""
    versions = [Ranged(DISK, cut=50_000), Ranged(DISK[::-1], etag='"v2"')]
    url = web.put("/changed", lambda number: versions[min(number, 1)])
    with pytest.raises(Unavailable, match='its ETag is "v2", and was "v1"'):
        download(client, url)


def test_a_server_without_ranges_begins_again(web: ImageServer, client: Downloader) -> None:
    """What the consumer has already is skipped; an attempt counts by the bytes that are new."""
    cuts = [60_000, 130_000, 130_000, 50_000, None]
    url = web.put("/again", lambda n: Ranged(DISK, cut=cuts[min(n, 4)], twist=whole))
    assert download(client, url) == DISK
    assert web.asked("/again") == 5


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (Ranged(DISK + b"x", etag=""), "it has 210001 bytes, and had 210000"),
        (Ranged(DISK, etag='"v2"'), 'its ETag is "v2"'),
    ],
    ids=["size", "etag"],
)
def test_a_server_that_begins_again_with_another_file_is_refused(
    web: ImageServer, client: Downloader, second: Ranged, words: str
) -> None:
    contents = [Ranged(DISK, cut=60_000), second]
    url = web.put("/other", lambda number: contents[min(number, 1)])
    with pytest.raises(Unavailable, match=words):
        download(client, url)


def test_nothing_shows_that_a_body_of_unknown_size_goes_on(
    web: ImageServer, client: Downloader
) -> None:
    url = web.put("/unknown", Ranged(DISK, cut=60_000, chunked=True, etag=""))
    with pytest.raises(Unavailable, match="disk: the connection broke after"):
        download(client, url)
    assert web.asked("/unknown") == 1
    first = Ranged(DISK, cut=60_000, chunked=True)
    second = Ranged(DISK, chunked=True, etag="", twist=whole)
    url = web.put("/again-unknown", lambda number: second if number else first)
    with pytest.raises(Unavailable, match="begins again, without a size or an ETag"):
        download(client, url)


def test_a_server_may_send_less_than_the_rest(web: ImageServer, client: Downloader) -> None:
    """RFC 9110, 15.3.7: a part of the range, without an error."""

    def part(answer: Ranges, number: int) -> None:
        if number:
            start = len(DISK) - len(answer.body)
            answer.body = answer.body[:70_000]
            answer.headers["Content-Range"] = f"bytes {start}-{start + len(answer.body) - 1}/210000"

    first = Ranged(DISK, cut=10_000)
    url = web.put("/parts", lambda number: Ranged(DISK, twist=part) if number else first)
    assert download(client, url) == DISK
    assert web.asked("/parts") == 4


def test_attempts_without_progress_are_limited_and_their_pauses_grow(
    web: ImageServer, client: Downloader, pauses: list[float]
) -> None:
    url = web.put("/dead", lambda number: Status(503) if number else Ranged(DISK, cut=9))
    with pytest.raises(Unavailable) as caught:
        download(client, url)
    assert str(caught.value) == (
        "disk: broke after 9 of 210000 bytes and cannot be resumed: the server answers 503 Service"
        " Unavailable; the next run starts again"
    )
    assert web.asked("/dead") == 9
    for seconds, longest in zip(pauses, (1, 1, 2, 4, 8, 16, 30, 30), strict=True):
        assert longest / 2 <= seconds <= longest


def test_a_server_that_returns_is_asked_from_where_it_broke(
    web: ImageServer, client: Downloader
) -> None:
    """Progress begins a new count of attempts."""
    url = web.put("/back", lambda n: Status(502) if n % 7 else Ranged(DISK, cut=80_000))
    assert download(client, url) == DISK
    assert web.asked("/back") == 15


@pytest.mark.parametrize(
    ("after", "shortest", "longest"),
    [("7", 7, 8), ("0", 0, 1), ("soon", 0, 1), ("-3", 0, 1)],
)
def test_a_server_that_asks_to_wait_is_left_alone_for_so_long(
    web: ImageServer,
    client: Downloader,
    pauses: list[float],
    after: str,
    shortest: float,
    longest: float,
) -> None:
    """429 with Retry-After, at first and in the middle."""
    busy = Ranged(b"", twist=twisted_always(429, after))
    answers: list[Content] = [busy, Ranged(DISK, cut=100_000), busy, Ranged(DISK)]
    url = web.put("/busy", lambda number: answers[min(number, 3)])
    assert download(client, url) == DISK
    first, _, second = pauses  # the second one is that before each resumption
    assert shortest <= first <= longest
    assert shortest <= second <= longest
    assert web.asked("/busy") == 4


def twisted_always(status: int, after: str) -> Callable[[Ranges, int], None]:
    def twist(answer: Ranges, number: int) -> None:
        del number
        answer.status, answer.body = status, b""
        answer.headers["Retry-After"] = after

    return twist


def test_a_date_to_wait_for(web: ImageServer, client: Downloader, pauses: list[float]) -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    busy = Ranged(b"", twist=twisted_always(503, moment))
    url = web.put("/date", lambda number: Ranged(DISK) if number else busy)
    assert download(client, url) == DISK
    assert 55 <= pauses[0] <= 61


def test_a_server_that_asks_to_wait_too_long_is_left_to_the_next_run(
    web: ImageServer, client: Downloader, pauses: list[float]
) -> None:
    url = web.put("/later", Ranged(b"", twist=twisted_always(429, "3600")))
    with pytest.raises(Unavailable, match="answers 429 Too Many Requests and asks to wait 3600 s"):
        download(client, url)
    assert (pauses, web.asked("/later")) == ([], 1)


def test_redirects_are_followed_from_the_first_url_each_time(
    web: ImageServer, store: ImageServer, client: Downloader
) -> None:
    """R10: the URLs of an object store end; no credentials go there."""
    valid = [""]

    def signed(number: int) -> Redirect:
        if valid[0]:
            store.put(valid[0], Status(403))
        valid[0] = f"/disk?signature={number}"
        return Redirect(store.put(valid[0], Ranged(DISK, cut=10_000)))

    url = web.put("/moving", signed, token="token-of-the-site")
    user, password = "token-of-the-site", "x-oauth-basic"
    with client.stream(url, name="disk", user=user, password=password) as (_, blocks):
        assert b"".join(blocks) == DISK
    assert web.asked("/moving") == len(store.requests) == 21
    assert all("Authorization" not in headers for _, _, headers in store.requests)
    assert len({path for _, path, _ in store.requests}) == 21


def test_a_store_that_refuses_is_named(
    web: ImageServer, store: ImageServer, client: Downloader
) -> None:
    place = store.put("/closed", Status(403))
    url = web.put("/to-closed", lambda n: Redirect(place) if n else Ranged(DISK, cut=10_000))
    host = store.base.partition("//")[2]
    with pytest.raises(AccessDenied) as caught:
        download(client, url)
    assert str(caught.value) == (
        f"disk: {host}, to which the server redirects, answers 403 Forbidden; ask its"
        " administrators"
    )


def test_a_server_is_not_asked_again_when_the_time_is_over(
    web: ImageServer, client: Downloader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The total time covers all attempts and their pauses."""
    monkeypatch.setattr(retry, "_sleep", time.sleep)
    url = web.put("/endless", Ranged(DISK, cut=1))
    short = Timeouts(total=timedelta(seconds=0.8))
    with pytest.raises(Unavailable, match="disk: is too slow"):
        download(client, url, timeouts=short)
    assert web.asked("/endless") <= 3


@pytest.mark.parametrize(
    ("taken", "words"),
    [
        (
            49,
            (
                "disk: is too slow: only 7 bytes arrived in time; the next run retries; if that"
                " recurs, ask its administrators"
            ),
        ),
        (
            51,
            (
                "disk: took too long: 51 of 100 s were spent on passing it on; check the speed of"
                " the disk, of the backend and of Glance"
            ),
        ),
    ],
)
def test_a_consumer_that_is_too_slow_is_not_the_server_s_fault(
    clock: Clock, taken: int, words: str
) -> None:
    rate = pace.Pace(timedelta(seconds=60))
    with deadline.limit(timedelta(hours=1)) as limit:
        began = clock.now
        clock.now += taken
        rate.exclude(since=began)
        clock.now += 100 - taken
        assert str(answers.over("disk", 7, limit, rate)) == words


def test_one_thread_watches_all_deadlines() -> None:
    """Each ends at its own time, and is left alone before."""
    with contextlib.ExitStack() as stack, deadline.limit(timedelta(hours=1)) as patient:
        before = threading.active_count()
        limits = [stack.enter_context(deadline.limit(timedelta(hours=1))) for _ in range(50)]
        assert threading.active_count() == before
        short = stack.enter_context(deadline.limit(timedelta(milliseconds=20)))
        with limits[7].waiting(timedelta(milliseconds=30)), limits[8].waiting(timedelta(hours=1)):
            until(lambda: short.is_over and limits[7].is_stalled)
        assert [each for each in limits if each.is_over or each.is_stalled] == [limits[7]]
        deadline.end_all()
        until(lambda: patient.is_over and all(each.is_over for each in limits))


def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so; the test's own time limit ends what never is."""
    while not condition():
        time.sleep(0.005)


WINDOW = Timeouts(
    timedelta(seconds=0.2), timedelta(seconds=0.2), timedelta(minutes=5), timedelta(seconds=0.3)
)


@pytest.mark.parametrize(
    "begin",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
    ids=["length", "no length"],
)
def test_a_body_that_drips_ends_after_a_window(
    web: ImageServer, client: Downloader, begin: bytes
) -> None:
    """The total time is far away: a dripping server would hold the run until then."""
    url = web.put("/drip", Dripping(begin, b"x"))
    host = web.base.partition("//")[2]
    with pytest.raises(Unavailable) as caught:
        download(client, url, timeouts=WINDOW)
    words = str(caught.value)
    assert words.startswith(f"disk: is too slow: {host} sends ")
    rate = int(words.partition("sends ")[2].split()[0])
    assert rate <= 150  # a byte every 10 ms at most
    assert " bytes/s, less than the limit of 3.3 MiB/s over 0.3 s; the next run retries" in words


def test_a_header_that_drips_ends_after_a_window(web: ImageServer, client: Downloader) -> None:
    url = web.put("/slow-header", Dripping(b"HTTP/1.1 200 OK\r\nX: ", b"x"))
    host = web.base.partition("//")[2]
    with pytest.raises(Unavailable) as caught:
        download(client, url, timeouts=WINDOW)
    assert str(caught.value) == (
        f"disk: is too slow: {host} did not send its whole header within 0.4 s; the next run"
        " retries; if that recurs, ask its administrators"
    )
    assert web.asked("/slow-header") == 1


def rate_of(clock: Clock, *steps: tuple[float, int]) -> float | None:
    """Return the rate that is too low, after seconds and bytes in turn."""
    rate = pace.Pace(timedelta(seconds=60))
    for seconds, number in steps:
        clock.now += seconds
        if (found := rate.add(number)) is not None:
            return found
    return None


def test_a_rate_is_judged_by_whole_windows(clock: Clock) -> None:
    assert rate_of(clock, (59, 1)) is None
    assert rate_of(clock, (59, 1), (1, 1)) == pytest.approx(2 / 60)
    assert rate_of(clock, (60, 2**20)) is None
    assert rate_of(clock, (30, 2**19), (30, 2**19 - 1)) == pytest.approx((2**20 - 1) / 60)
    assert rate_of(clock, (1, 2**30), (59, 0), (61, 1)) == pytest.approx(1 / 61)


def test_the_time_of_the_consumer_and_of_outages_is_not_the_server_s(clock: Clock) -> None:
    rate = pace.Pace(timedelta(seconds=60))
    given = clock.now
    clock.now += 3600
    rate.exclude(since=given)
    assert rate.add(1) is None
    for _ in range(5):
        clock.now += 60
        rate.forgive()
        assert rate.add(1) is None
    for _ in range(2):  # no grace is left
        clock.now += 60
        rate.forgive()
        found = rate.add(1)
    assert found is not None


def test_a_byte_for_each_connection_is_slow(clock: Clock) -> None:
    rate = pace.Pace(timedelta(seconds=60))
    found = None
    for _ in range(90):
        clock.now += 0.8
        rate.forgive()
        found = found or rate.add(1)
    assert found == pytest.approx(1 / 0.8, rel=0.1)


def test_a_list_is_resumed_too(web: ImageServer, client: Downloader) -> None:
    url = web.put("/list", Ranged(DISK, cut=100_000))
    assert client.fetch(url, name="list", max_bytes=len(DISK)) == DISK
    with pytest.raises(Unavailable, match="is larger than 209999 bytes"):
        client.fetch(url, name="list", max_bytes=len(DISK) - 1)


def test_one_attempt_resumes_nothing(web: ImageServer, authority: Authority) -> None:
    once = Downloader(CADirectory(authority.directory / "certificates"), attempts=1)
    with pytest.raises(Unavailable, match="the connection"):
        download(once, web.put("/once", Broken(b"x", 2)))
