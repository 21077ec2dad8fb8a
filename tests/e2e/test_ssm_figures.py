"""Run records and metrics of `ssmsend` and `ssmreceive` after failures, against a count."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import foreign
from tests.e2e.killpoints import Command
from tests.e2e.ssm_site import PROGRAMS, Site
from tests.e2e.test_ssm_faults import texts, wait_for
from tests.e2e.test_ssm_receive import signed, text
from tests.e2e.test_ssm_site import change
from tests.simulators.stomp_faults import Fault, FaultBroker, Kind
from tests.testbed.trust import Trust


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    made = Trust(tmp_path_factory.mktemp("trust"))
    made.publish()
    return made


def figures(site: Site, program: str) -> dict[str, float]:
    """Return the metrics of the last run, which must be those of its record."""
    metrics = (site.root / f"var/lib/fedcloud/runs/{program}.prom").read_text()
    found = {
        sample.name.removeprefix("fedcloud_run_"): sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
    }
    record = site.record(program)
    assert record["counts"].items() <= found.items()
    assert (found["exit_status"], found["failures"]) == (record["status"], len(record["failures"]))
    return found


class Watch:
    """Runs `ssmsend` and compares its figures with those of broker and spool."""

    def __init__(self, site: Site, broker: FaultBroker) -> None:
        self.site, self.broker = site, broker

    def check(self, status: int, words: str, *, returncode: int | None = None) -> None:
        before = len(self.broker.accepted)
        done = self.site.run("ssmsend")
        assert done.returncode == (status if returncode is None else returncode), done.stderr
        self.compare(status, words, sent=len(self.broker.accepted) - before)

    def compare(self, status: int, words: str, *, sent: int) -> None:
        found = figures(self.site, "ssmsend")
        assert (found["exit_status"], found["messages_sent"]) == (status, sent)
        if "left" in found:  # not where the configuration does not say which spool
            assert found["left"] == len(self.site.waiting())
        assert found["dead_letters"] == 0
        assert any(words in failure for failure in self.site.record("ssmsend")["failures"])
        assert found["failures"] == len(self.site.record("ssmsend")["failures"]) > 0


@contextlib.contextmanager
def changed(site: Site, old: object, new: object) -> Iterator[None]:
    change(site, old, new)
    yield
    change(site, new, old)


def test_figures_of_runs_that_send_nothing(tmp_path: Path, trust: Trust) -> None:
    """F-S2."""
    faults = [Fault(Kind.REFUSES_US), Fault(Kind.NO_RECEIPT, after=1)]
    with FaultBroker(trust.host("broker"), trust.grid.certificate, faults) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        site.fill(texts(3))
        watch = Watch(site, broker)
        watch.check(3, "refuses this host")
        with changed(site, f"localhost:{broker.port}", "localhost:1"):
            watch.check(3, "cannot be reached")
        with changed(site, f"key: {trust.host('sender').key}", f"key: {trust.host('other').key}"):
            watch.check(3, "the key does not belong to")
        with changed(site, "protocol: STOMP", "protocol: SMTP"):
            watch.check(2, "[sender] protocol")
        running = site.start("ssmsend")
        wait_for(lambda: len(broker.accepted) == 1)
        before = (tmp_path / "var/lib/fedcloud/runs/ssmsend.json").read_text()
        assert site.run("ssmsend").returncode == 1  # the lock is held: the record is not this run's
        assert (tmp_path / "var/lib/fedcloud/runs/ssmsend.json").read_text() == before
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=20)
        assert running.returncode == 1
        watch.compare(1, "not sent; the next run continues from here", sent=1)
        assert site.run("ssmsend").returncode == 0
        assert figures(site, "ssmsend")["left"] == 0


def test_figures_beside_what_others_left(tmp_path: Path, trust: Trust) -> None:
    """F-H1, F-S4: the record and `ssmctl` name each once, and the messages are sent."""
    with FaultBroker(trust.host("broker"), trust.grid.certificate) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        names = site.fill(texts(2))
        odd = [
            site.spool / names[0][:8] / ("0" * 14),
            site.spool / names[0][:8] / ("1" * 14),
            site.spool / "22222222",
        ]
        odd[0].mkdir()
        odd[1].symlink_to("/etc/hostname")
        odd[2].touch()
        assert site.run("ssmsend").returncode == 1
        assert broker.ids() == names
        found = figures(site, "ssmsend")
        assert (found["messages_sent"], found["left"], found["skipped"], found["dead_letters"]) == (
            2,
            0,
            3,
            0,
        )
        failures = site.record("ssmsend")["failures"]
        assert sorted(line.split(": ")[0] for line in failures) == sorted(map(str, odd))
        assert all(
            line.endswith((f": rm {path}", f": rm -r {path}"))
            for line, path in zip(sorted(failures), sorted(odd), strict=True)
        )
        assert broker.connections == 1
        assert site.run("ssmsend").returncode == 1  # nothing to send: the broker is not asked
        assert broker.connections == 1
        shown = Command([str(PROGRAMS / "ssmctl"), "spool", "--root", str(tmp_path)]).run()
        assert shown.returncode == 1
        assert shown.stdout.splitlines() == [f"0 messages in {site.spool}", *sorted(failures)]


_MODULES = (
    "json, encodings.utf_8_sig, encodings.idna, encodings.unicode_escape, ssm.cmds.send, "
    "ssm.sending.sender, ssm.sending.packer, ssm.sqlite_file, ssm.transport.stomp, "
    "ssm.transport.brokers, appliance.core.trust.ca_directory, "
    "appliance.core.trust.certificates, appliance.core.trust.tls"
)


def test_a_directory_of_root_s_beside_good_messages() -> None:
    """F-H1: it is skipped and reported with chown, the rest is sent, and the status is 1."""
    with foreign.open_to_all() as root:
        trust = Trust(root / "trust")
        trust.publish()
        with FaultBroker(trust.host("broker"), trust.grid.certificate) as broker:
            site = Site.create(root / "site", trust, hosts=f"localhost:{broker.port}")
            names = site.fill(texts(2))
            closed = site.spool / "11111111"
            for path in [root, *root.rglob("*")] if os.geteuid() == 0 else []:
                os.chown(path, foreign.NOBODY, foreign.NOBODY)
            closed.mkdir(mode=0)
            code = (
                f"import sys; sys.argv = ['ssmsend', '--root', {str(site.root)!r}]\n"
                "print(ssm.cmds.send.main())"
            )
            said = foreign.as_nobody(code, modules=_MODULES)
            assert said.splitlines()[-1:] == ["1"]
            assert broker.ids() == names
        found = figures(site, "ssmsend")
        assert (found["messages_sent"], found["left"], found["skipped"]) == (2, 0, 1)
        ids = (
            f"{foreign.NOBODY}:{foreign.NOBODY}"
            if os.geteuid() == 0
            else f"{os.geteuid()}:{os.getegid()}"
        )
        [failure] = site.record("ssmsend")["failures"]
        assert failure.startswith(f"{closed}: skipped: permission denied (a directory of user ")
        assert failure.endswith(f"; chown -R {ids} {closed}")
        closed.chmod(0o700)
        assert list(site.spool.glob("*/*")) == []


@pytest.mark.root
def test_figures_of_a_full_disk(tmp_path: Path, trust: Trust) -> None:
    """F-S2: the message that cannot be set aside stays, the others go."""
    with FaultBroker(trust.host("broker"), trust.grid.certificate) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        [bad, good] = site.fill(["", texts(1)[0]])
        site.failed.parent.mkdir()
        with foreign.small_disk(site.failed.parent, size="8k"):
            foreign.fill(site.failed.parent / "full")
            Watch(site, broker).check(1, "cannot be moved to")
        assert site.waiting() == [bad]
        assert broker.accepted == [good]


def test_figures_of_a_receiver(tmp_path: Path, trust: Trust) -> None:
    """F-S2."""
    with FaultBroker(trust.host("broker"), trust.grid.certificate) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        change(site, f"localhost:{broker.port}", "localhost:1", role="receiver")
        process = site.start("ssmreceive", "--idle-exit", "2")
        record = tmp_path / "var/lib/fedcloud/runs/ssmreceive.json"
        wait_for(record.exists)  # while it waits for a broker, its record says so
        assert (
            site.record("ssmreceive")["status"],
            site.record("ssmreceive")["counts"]["stored"],
        ) == (3, 0)
        process.communicate(timeout=20)
        assert process.returncode == 3
        assert len(site.record("ssmreceive")["failures"]) == 1
        change(site, "localhost:1", f"localhost:{broker.port}", role="receiver")
        stranger = tmp_path / "var/spool/repository/incoming/00000007"
        stranger.touch()
        sender = trust.host("sender")
        broker.enqueue(
            [signed(text(n), sender) for n in range(3)] + [b"rubbish", signed(text(0), sender)]
        )
        broker.queue[4].headers["empa-id"] = broker.queue[0].headers["empa-id"]
        assert site.run("ssmreceive", "--idle-exit", "0.5").returncode == 1
        assert broker.queue == []
        found = figures(site, "ssmreceive")
        assert (
            found["messages_received"],
            found["stored"],
            found["rejected"],
            found["duplicates"],
        ) == (5, 3, 1, 1)
        assert (found["skipped"], found["exit_status"]) == (1, 1)
        assert len(site.elements()) == 3
        assert site.record("ssmreceive")["failures"] == [
            f"{stranger}: skipped: is a file; if nobody needs it: rm {stranger}"
        ]
