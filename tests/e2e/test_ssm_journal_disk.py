"""B25: the journal of sent messages on file systems that only root can mount."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core.run.errors import ExitStatus, LocalFailure
from ssm.sending import sent_list
from tests import foreign
from tests.simulators.stomp_faults import FaultBroker
from tests.testbed.trust import Trust
from tests.unit.test_ssm_sender import sender_to
from tests.unit.test_ssm_sent_journal import (
    at,
    cloud,
    delivery,
    enqueue,
    journal_of,
    message,
    rows,
    run_with_fault,
)

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    made = Trust(tmp_path_factory.mktemp("trust"))
    made.publish()
    return made


@pytest.fixture
def broker(trust: Trust) -> Iterator[FaultBroker]:
    with FaultBroker(trust.host("broker"), trust.grid.certificate) as made:
        yield made


def test_a_full_disk_loses_rows_and_no_message(
    tmp_path: Path, trust: Trust, broker: FaultBroker
) -> None:
    at(tmp_path).parent.mkdir(parents=True)
    with foreign.small_disk(at(tmp_path).parent, size="8k"):
        foreign.fill(at(tmp_path).parent / "full")
        _, line = run_with_fault(tmp_path, trust, broker)
        assert line.startswith(f"{at(tmp_path)}: No space left on device; free space")


def test_a_disk_that_is_full_for_a_while_loses_nothing(tmp_path: Path, trust: Trust) -> None:
    """Rows wait until the removal of messages, or a person, has made room."""
    enqueue(tmp_path, *(message(cloud(n, n)) for n in range(40)))
    at(tmp_path).parent.mkdir(parents=True)
    with (
        foreign.small_disk(at(tmp_path).parent, size="256k"),
        FaultBroker(trust.host("broker"), trust.grid.certificate) as broker,
    ):
        foreign.fill(at(tmp_path).parent / "full")

        def is_stopping() -> bool:
            if len(broker.sent) > 20:
                (at(tmp_path).parent / "full").unlink(missing_ok=True)
            return False

        sender, _ = sender_to(broker, tmp_path, trust, 0, is_stopping=is_stopping)
        assert sender.run() is ExitStatus.DONE
        assert rows(tmp_path, "SELECT count(*) FROM message") == [(40,)]
    assert sender._record.counts["missing_in_journal"] == 0


def test_a_reader_on_a_read_only_mount_sees_what_the_sender_writes(tmp_path: Path) -> None:
    """As in another container, while the sender runs and after it."""
    journal = journal_of(tmp_path)
    journal.write([delivery(id="1")])
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    binding = ["mount", "--bind", "-o", "ro", str(at(tmp_path).parent), str(mounted)]
    subprocess.run(binding, check=True)
    try:
        for number in ("2", "3"):
            with sent_list.opened(mounted / "sent.sqlite") as connection:
                ids = [row["id"] for row in sent_list.messages(connection)]
                assert ids[-1] == str(int(number) - 1)
                journal.write([delivery(id=number)])
                assert journal.failures() == []
                ids = [row["id"] for row in sent_list.messages(connection)]
                assert ids[-1] == number
        journal.finish()
        with sent_list.opened(mounted / "sent.sqlite") as connection:
            assert len(list(sent_list.messages(connection))) == 3
        at(tmp_path).write_text("x" * 5000)
        with pytest.raises(LocalFailure, match="file is not a database"):
            sent_list.opened(mounted / "sent.sqlite").__enter__()
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
