"""The build of the machine's image: its refusals, and parts that depend on the inputs only."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from appliance.core.run.errors import ApplianceError
from deploy import debian
from deploy.vm import boot, disk, engine_data, identity, needs, recipe, tree
from tests.testbed import bundle as bundles

TOP = Path(__file__).resolve().parents[2]
DAY = date(2026, 11, 29)
KNOWN = identity.BuildIdentity("0123456789abcdef", DAY)
PROGRAM = tree.FILES / boot.PROGRAM
OLD, NEW = "6.12.9+deb13-amd64", "6.12.10+deb13-amd64"


class TestWhatABuildRefuses:
    def test_another_account_than_root(self) -> None:
        with pytest.raises(ApplianceError) as error:
            needs.check_host(user=1000)
        assert str(error.value) == "build-image: only root can build an image; run it with sudo"

    def test_missing_programs_are_named_by_their_packages(self, tmp_path: Path) -> None:
        for name in needs.PROGRAMS:
            if name not in ("mcopy", "sfdisk"):
                (tmp_path / name).write_text("")
                (tmp_path / name).chmod(0o755)
        with pytest.raises(ApplianceError) as error:
            needs.check_host(str(tmp_path), user=0)
        assert "apt-get install fdisk mtools" in str(error.value)

    def test_a_disk_without_room(self, tmp_path: Path) -> None:
        needs.check_room(tmp_path, room=1)
        free = shutil.disk_usage(tmp_path).free
        with pytest.raises(ApplianceError) as error:
            needs.check_room(tmp_path, room=free + 10**12)
        assert re.search(r"GB are free, a build needs [\d.]+ GB; free space, or", str(error.value))
        assert needs.ROOM == 4_000_000_000

    def test_no_bundle(self, tmp_path: Path) -> None:
        for named, words in (
            (None, "holds no bundle; build one with scripts/build, or name a directory or a tar"),
            (tmp_path / "none", "there is no such bundle; name a directory or a tar"),
        ):
            with pytest.raises(ApplianceError) as error:
                needs.find_bundle(named, tmp_path, tmp_path)
            assert words in str(error.value)

    @pytest.mark.parametrize("content", [b"", b"no tar", bytes(10240)])
    def test_a_file_that_is_no_bundle(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "bundle.tar"
        path.write_bytes(content)
        with pytest.raises(ApplianceError, match="is not a tar of a bundle; get the bundle again"):
            needs.find_bundle(path, tmp_path, tmp_path)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return bundles.make_key(tmp_path_factory.mktemp("key"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, keys: tuple[Path, Path]) -> Path:
    return bundles.make(tmp_path_factory.mktemp("made"), key=keys[0])


@pytest.mark.programs("openssl")
class TestWhichBundlesABuildTakes:
    def test_a_signed_one_from_a_directory_or_a_tar(
        self, tmp_path: Path, made: Path, keys: tuple[Path, Path]
    ) -> None:
        digest = hashlib.sha256((made / "SHA256SUMS").read_bytes()).hexdigest()
        found = needs.find_bundle(None, made.parent, tmp_path)
        assert needs.check_bundle(found, keys[1], tmp_path).digest == digest
        tar = tmp_path / "bundle.tar"
        subprocess.run(["tar", "-C", made.parent, "-cf", tar, made.name], check=True)
        found = needs.find_bundle(tar, tmp_path / "dist", tmp_path)
        assert needs.check_bundle(found, keys[1], tmp_path).digest == digest

    def test_an_altered_one_is_refused(
        self, tmp_path: Path, made: Path, keys: tuple[Path, Path]
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(made, copy)
        (copy / "images.lock").write_text("# other\n")
        for key in (keys[1], None):
            with pytest.raises(ApplianceError, match=r"altered or incomplete: images\.lock; get"):
                needs.check_bundle(copy, key, tmp_path)

    def test_one_without_signature_is_taken_only_when_asked_for(
        self, tmp_path: Path, made: Path, keys: tuple[Path, Path]
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(made, copy)
        (copy / "SHA256SUMS.sig").unlink()
        with pytest.raises(ApplianceError, match="is not signed; use --unsigned if you have built"):
            needs.check_bundle(copy, keys[1], tmp_path)
        assert needs.check_bundle(copy, None, tmp_path).version

    def test_the_signature_of_another_key_and_no_key(self, tmp_path: Path, made: Path) -> None:
        (tmp_path / "other").mkdir()
        _, public = bundles.make_key(tmp_path / "other")
        with pytest.raises(ApplianceError, match="its signature does not match"):
            needs.check_bundle(made, public, tmp_path)
        with pytest.raises(ApplianceError, match="there is no such key; name the publisher's"):
            needs.check_bundle(made, tmp_path / "none.pem", tmp_path)


class TestWhatABuildDerivesFromItsInputs:
    def _of(
        self, tmp_path: Path, *, bundle: str, text: str, mode: int = 0o644
    ) -> identity.BuildIdentity:
        base = debian.Base(tmp_path / "base", DAY)
        files = tmp_path / "files"
        for directory in (base.directory, files):
            directory.mkdir(exist_ok=True)
        (base.directory / debian.LIST).write_text("bash 5.2 amd64 2025-01-01\n")
        (files / "motd").write_text(text)
        (files / "motd").chmod(mode)
        return identity.of(bundle, base, [files])

    def test_equal_inputs_have_one_identity_and_others_another(self, tmp_path: Path) -> None:
        first = self._of(tmp_path, bundle="a", text="x")
        assert self._of(tmp_path, bundle="a", text="x") == first
        others = [
            self._of(tmp_path, bundle="b", text="x"),
            self._of(tmp_path, bundle="a", text="y"),
            self._of(tmp_path, bundle="a", text="x", mode=0o755),
        ]
        digests = {one.digest for one in (first, *others)}
        assert len(digests) == 4

    def test_each_part_of_a_disk_has_its_own_identifier(self) -> None:
        names = ("disk", "boot", "root", "root file system", "hash seed")
        assert len({KNOWN.uuid(name) for name in names}) == len(names)
        assert re.fullmatch("[0-9A-F]{8}", KNOWN.serial)
        assert KNOWN.epoch == datetime(2026, 11, 29, tzinfo=UTC).timestamp()


def _engine(data: Path, names: Mapping[str, str]) -> None:
    """Write the data of an engine with two layers, under random ``names`` by chain."""
    database = data / "image/overlay2"
    (database / "imagedb/content/sha256").mkdir(parents=True)
    (database / "imagedb/content/sha256/f00d").write_text("{}")
    (database / "repositories.json").write_text('{"Repositories":{}}')
    (database / "distribution").mkdir()
    (data / "overlay2/l").mkdir(parents=True)
    lower = ""
    for chain, name in names.items():
        entry = database / "layerdb/sha256" / chain
        entry.mkdir(parents=True)
        (entry / "cache-id").write_text(name)
        (entry / "diff").write_text("sha256:d1ff")
        layer = data / "overlay2" / name
        (layer / "diff").mkdir(parents=True)
        (layer / "diff/file").write_text(chain)
        short = name.upper().ljust(26, "Q")
        (layer / "link").write_text(short)
        (data / "overlay2/l" / short).symlink_to(f"../{name}/diff")
        if lower:
            (layer / "lower").write_text(lower)
            (layer / "work").mkdir()
        lower = f"l/{short}" + (f":{lower}" if lower else "")


def _files(top: Path) -> dict[str, str]:
    return {
        str(path.relative_to(top)): str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in top.rglob("*")
        if path.is_symlink() or path.is_file()
    }


class TestTheDataOfTheEngine:
    def test_random_names_leave_no_trace(self, tmp_path: Path) -> None:
        chains = ("aa11", "bb22", "cc33")
        for number, names in enumerate((("x", "y", "z"), ("r", "s", "t"))):
            data = tmp_path / str(number) / "data"
            _engine(data, dict(zip(chains, names, strict=True)))
            engine_data.normalise(data, tmp_path / str(number) / "docker")
        first, second = (_files(tmp_path / str(number) / "docker") for number in range(2))
        assert first == second
        assert "image/overlay2/distribution" not in {path.rpartition("/")[0] for path in first}

    def test_each_layer_finds_those_below_it_by_their_links(self, tmp_path: Path) -> None:
        docker = tmp_path / "docker"
        _engine(tmp_path / "data", {"aa11": "x", "bb22": "y", "cc33": "z"})
        engine_data.normalise(tmp_path / "data", docker)
        database = docker / "image/overlay2/layerdb/sha256"
        assert (database / "cc33/cache-id").read_text() == "cc33"
        below = (docker / "overlay2/cc33/lower").read_text().split(":")
        assert [(docker / "overlay2" / name / "file").read_text() for name in below] == [
            "bb22",
            "aa11",
        ]
        short = (docker / "overlay2/cc33/link").read_text()
        assert re.fullmatch("[A-Z2-7]{26}", short)
        assert (docker / "overlay2/l" / short / "file").read_text() == "cc33"


@pytest.mark.programs("mkfs.vfat", "mcopy", "mtype", "syslinux")
def test_the_boot_partition_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    place = tmp_path / "place"
    (place / "EFI/BOOT").mkdir(parents=True)
    (place / "EFI/BOOT/BOOTX64.EFI").write_bytes(b"MZ")
    (place / "syslinux.cfg").write_text("UI menu.c32\n")
    made = []
    for name in ("first", "second"):
        boot.pack(place, tmp_path / name, KNOWN, size=40 * 2**20)
        made.append((tmp_path / name).read_bytes())
        os.utime(place / "syslinux.cfg")
    assert made[0] == made[1]
    read = ["mtype", "-i", str(tmp_path / "first"), "::/EFI/BOOT/BOOTX64.EFI"]
    assert subprocess.run(read, capture_output=True, check=True).stdout == b"MZ"
    assert made[0][0x43:0x47] == bytes.fromhex(KNOWN.serial)[::-1]  # of FAT32, in its first sector
    assert b"SYSLINUX" in made[0][:512]


@pytest.mark.programs("sfdisk")
def test_bios_and_uefi_find_the_boot_partition(tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    disk.divide(raw, KNOWN)
    shown = subprocess.run(["sfdisk", "--json", raw], capture_output=True, check=True).stdout
    table = json.loads(shown)["partitiontable"]
    first, second = table["partitions"]
    assert (table["label"], raw.stat().st_size) == ("gpt", 8 * 2**30)
    # The type of an EFI system partition, and bit 2, by which gptmbr.bin finds what it starts.
    assert first["type"] == "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
    assert first["attrs"] == "LegacyBIOSBootable"
    assert second["start"] == first["start"] + first["size"]  # the last one: it grows
    with raw.open("rb") as file:
        head = file.read(440)
    assert head.startswith(disk.MASTER.read_bytes()[:300])


@pytest.mark.programs("mountpoint")
class TestTheKernelsOfTheBootPartition:
    def _kernel(self, root: Path, version: str, initrd: str = "initrd") -> None:
        (root / "boot").mkdir(parents=True, exist_ok=True)
        (root / f"boot/vmlinuz-{version}").write_text(f"kernel {version}")
        (root / f"boot/initrd.img-{version}").write_text(initrd)
        (root / "etc/kernel").mkdir(parents=True, exist_ok=True)
        (root / "etc/kernel/cmdline").write_text("root=UUID=1 ro\n")

    def _run(self, root: Path, *words: str) -> dict[str, str]:
        subprocess.run([PROGRAM, "--root", root, *words], check=True, capture_output=True)
        return _files(root / "boot/efi")

    def test_an_image_has_its_kernel_in_both_menus(self, tmp_path: Path) -> None:
        self._kernel(tmp_path, OLD)
        found = self._run(tmp_path, "--is-good")
        assert found[f"fedcloud/{OLD}/linux"] == f"kernel {OLD}"
        entry = found["loader/entries/fedcloud-6.12.9.deb13-amd64.conf"]
        assert f"\nlinux /fedcloud/{OLD}/linux\ninitrd /fedcloud/{OLD}/initrd\n" in entry
        assert entry.endswith("options root=UUID=1 ro\n")
        assert f"  LINUX /fedcloud/{OLD}/linux\n" in found["syslinux.cfg"]

    def test_a_new_kernel_is_tried_three_times_and_the_old_one_stays(self, tmp_path: Path) -> None:
        self._kernel(tmp_path, OLD)
        self._run(tmp_path, "--is-good")
        self._kernel(tmp_path, NEW)
        found = self._run(tmp_path)
        entries = sorted(name for name in found if name.startswith("loader/entries"))
        assert entries == [
            "loader/entries/fedcloud-6.12.10.deb13-amd64+3.conf",
            "loader/entries/fedcloud-6.12.9.deb13-amd64.conf",
        ]
        labels = re.findall(r"^LABEL (\w+)\n.*\n  LINUX (\S+)", found["syslinux.cfg"], re.MULTILINE)
        assert labels == [
            ("current", f"/fedcloud/{NEW}/linux"),
            ("previous", f"/fedcloud/{OLD}/linux"),
        ]

    def test_what_the_loader_has_counted_is_kept(self, tmp_path: Path) -> None:
        self._kernel(tmp_path, OLD)
        self._run(tmp_path)
        entries = tmp_path / "boot/efi/loader/entries"
        counted = entries / "fedcloud-6.12.9.deb13-amd64+1-2.conf"
        (entries / "fedcloud-6.12.9.deb13-amd64+3.conf").rename(counted)
        self._run(tmp_path)
        assert list(entries.iterdir()) == [counted]

    def test_a_second_run_writes_nothing(self, tmp_path: Path) -> None:
        self._kernel(tmp_path, OLD)
        self._run(tmp_path)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
        self._run(tmp_path)
        assert before == {
            path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()
        }

    def test_a_new_initrd_is_copied_and_a_removed_kernel_leaves(self, tmp_path: Path) -> None:
        for version in (OLD, NEW):
            self._kernel(tmp_path, version)
        self._run(tmp_path)
        self._kernel(tmp_path, NEW, "other")
        (tmp_path / f"boot/vmlinuz-{OLD}").unlink()
        found = self._run(tmp_path)
        assert found[f"fedcloud/{NEW}/initrd"] == "other"
        assert not [name for name in found if "6.12.9" in name]
        assert "previous" not in found["syslinux.cfg"]

    def test_only_the_newest_three_fit(self, tmp_path: Path) -> None:
        for number in (8, 9, 10, 11):
            self._kernel(tmp_path, f"6.12.{number}+deb13-amd64")
        found = self._run(tmp_path)
        kept = {name.split("/")[1].split("+")[0] for name in found if name.startswith("fedcloud/")}
        assert kept == {"6.12.9", "6.12.10", "6.12.11"}

    @pytest.mark.parametrize("missing", ["cmdline", "initrd"])
    def test_without_what_it_needs_the_partition_stays(self, tmp_path: Path, missing: str) -> None:
        self._kernel(tmp_path, OLD)
        before = self._run(tmp_path)
        gone = {"cmdline": "etc/kernel/cmdline", "initrd": f"boot/initrd.img-{OLD}"}[missing]
        (tmp_path / gone).unlink()
        words: list[str | Path] = [PROGRAM, "--root", tmp_path]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert re.search("^boot-partition: .*(run this again|nothing was changed)$", done.stderr,
                         re.MULTILINE)  # fmt: skip
        assert _files(tmp_path / "boot/efi") == before

    def test_an_unmounted_partition_is_an_error(self) -> None:
        done = subprocess.run([PROGRAM], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr == (
            "boot-partition: /boot/efi is not mounted; mount /boot/efi,"
            " then run /usr/lib/fedcloud/boot-partition\n"
        )


def test_an_account_made_by_the_build_has_the_day_of_the_image(tmp_path: Path) -> None:
    """The build's own day would differ from build to build."""
    shadow = tmp_path / "shadow"
    shadow.write_text("root:!*:20000:0:99999:7:::\nfedcloud:!:99999::::::\nnew:!:::::::\n")
    tree.settle_passwords(shadow, KNOWN.epoch)
    day = (DAY - date(1970, 1, 1)).days
    wanted = f"root:!*:20000:0:99999:7:::\nfedcloud:!:{day}::::::\nnew:!:::::::\n"
    assert shadow.read_text() == wanted


def _words(path: Path) -> set[str]:
    lines = path.read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


class TestTheListsAgree:
    def test_the_image_has_what_the_installer_asks_for_on_debian_13(self) -> None:
        text = (TOP / "scripts/install").read_text()
        asked = re.search(r"^PACKAGES=\(([^)]*)\)", text, re.MULTILINE)
        assert asked
        more = {"docker.io", "docker-cli", "docker-compose"}
        assert {*asked[1].split(), *more} <= _words(recipe.HERE / "packages")

    def test_the_script_installs_what_a_build_needs(self) -> None:
        text = (TOP / "scripts/build-image").read_text()
        line = re.search(r"^debian (.*)$", text, re.MULTILINE)
        assert line
        essential = {"coreutils", "tar", "util-linux"}
        assert {*line[1].split()} == {*needs.PROGRAMS.values(), *needs.FILES.values()} - essential

    @pytest.mark.parametrize("hook", ["etc/kernel/postinst.d", "etc/kernel/postrm.d",
                                      "etc/initramfs/post-update.d"])  # fmt: skip
    def test_every_change_of_a_kernel_reaches_the_boot_partition(self, hook: str) -> None:
        path = tree.FILES / hook / "zz-fedcloud-boot"
        assert os.access(path, os.X_OK)
        assert f"exec /{boot.PROGRAM}" in path.read_text()
