"""`cloudkeeper trust SOURCE --digest`: the digest of a tag, pinned before its first use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.images_frontend import Done, run

TAG = "registry.example.org/images/ubuntu:24.04"
ONE, OTHER = (f"sha256:{digit * 64}" for digit in "ab")


class Host:
    """A frontend with one configured project; nothing here needs its registry."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "etc/cloudkeeper").mkdir(parents=True)
        (root / "etc/cloudkeeper/sources.yaml").write_text(
            "one:\n  type: harbor\n  registry_host: registry.example.org\n"
            "  project: images\n  vos: [ops]\n"
        )
        (root / "cloudkeeper.yml").write_text(
            f"cloudkeeper:\n  image-dir: {root}/images\n  lock-file: {root}/lock\n"
            "  logging: {file: ''}\n"
        )

    def trust(self, *flags: str) -> Done:
        config = self.root / "cloudkeeper.yml"
        return run("trust", "--root", str(self.root), "--config", str(config), *flags)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_it_is_shown_moved_and_released(host: Host) -> None:
    done = host.trust(TAG, "--digest", ONE, "--yes")
    assert done.returncode == 0, done.stderr
    assert f"  digest then  {ONE}" in done.stdout
    shown = host.trust().stdout
    assert f"  images/ubuntu:24.04  none yet\n    pinned: {ONE}; to release it: " in shown
    done = host.trust(TAG, "--digest", OTHER, "--yes")
    assert f"  digest now   {ONE}\n  digest then  {OTHER}\n" in done.stdout
    (tag,) = json.loads(host.trust("--json").stdout)["tags"]
    assert (tag["digest"], tag["pinned"]) == (None, OTHER)
    assert host.trust("--forget", TAG, "--yes").returncode == 0
    assert "nothing is pinned yet" in host.trust().stdout
    assert host.trust("--forget", TAG, "--yes").returncode == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([TAG, "--digest", "sha512:00"], "'sha512:00' is not a SHA-256 digest; write sha256: and"),
        ([TAG, "--digest", ONE.upper()], "is not a SHA-256 digest"),
        ([TAG.rpartition(":")[0], "--digest", ONE], "is not HOST/PROJECT/REPOSITORY:TAG"),
        ([TAG.replace("images", "other"), "--digest", ONE], "is not configured"),
        (["https://x.example.org/image.list", "--digest", ONE], "only tags have digests"),
        (["--digest", ONE], "--digest: needs a SOURCE"),
        ([TAG, "--digest", ONE, "--forget"], "cannot be combined with --forget"),
        (
            [TAG, "--digest", ONE, "--endorser-dn", "/C=x", "--endorser-ca", "/C=y"],
            "cannot be combined with --forget or --endorser-dn",
        ),
    ],
    ids=lambda found: found if isinstance(found, str) else "",
)
def test_what_makes_no_sense_is_refused(host: Host, flags: list[str], words: str) -> None:
    done = host.trust(*flags, "--yes")
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    assert not (host.root / "var").exists()


def test_without_a_yes_nothing_is_pinned(host: Host) -> None:
    assert host.trust(TAG, "--digest", ONE).returncode == 2
    assert not (host.root / "var").exists()
