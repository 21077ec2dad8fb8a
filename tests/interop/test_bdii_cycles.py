"""Ten thousand cycles, most with a change: neither memory nor open files grow."""

import logging
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import pytest

from appliance.core.run.layout import Layout
from bdii import settings
from bdii.service.cycle import Updater
from bdii.service.daemon import BdiiService
from bdii.service.state import StateDirectory
from tests.e2e.bdii_service import Bdii, cloud, image, images, search

TEXTS = (
    cloud(*(image(n, "a", "b") for n in range(60))),
    cloud(*(image(n, "a", "b") for n in range(60))),
    cloud(*(image(n, "a", name="changed" if n % 7 else "") for n in range(2, 62))),
    cloud(*(image(n, "a") for n in range(40)), "# failed: b\n"),
    cloud(*(image(n, "a", "b") for n in range(50)))[:-200],
    "",
)


def usage() -> tuple[int, int]:
    """Return the kB of memory and the number of open files of this process."""
    status = Path("/proc/self/status").read_text()
    (memory,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return int(memory), len(list(Path("/proc/self/fd").iterdir()))


def used(tmp_path: Path, counts: Iterator[int]) -> Iterator[tuple[int, int]]:
    """Yield what is used after each number of cycles."""
    read, _ = settings.read(Bdii(tmp_path).configuration, layout=Layout(tmp_path))
    made = BdiiService(read, lambda: read)
    made._slapd.recover()
    updater = Updater(read, StateDirectory(tmp_path / "state"), made._slapd)
    made._slapd.serve(updater.published)
    source = tmp_path / "gip/ldif/a.ldif"
    texts = cycle(TEXTS)
    try:
        for count in counts:
            for text in islice(texts, count):
                source.write_text(text)
                assert made._cycle(updater) is not None
            yield usage()
        for _ in range(3):
            source.write_text(TEXTS[0])
            assert made._cycle(updater) is not None
        assert len(images(search(read.port))) == 60
    finally:
        made._slapd.stop()


@pytest.mark.matrix
@pytest.mark.timeout(3600)
def test_ten_thousand_cycles_do_not_grow(tmp_path: Path) -> None:
    logging.disable(logging.CRITICAL)  # pytest keeps all lines
    try:
        (memory, files), (later, files_later) = used(tmp_path, iter((1_000, 9_000)))
    finally:
        logging.disable(logging.NOTSET)
    assert files_later <= files + 2
    assert later <= memory + 5_000
