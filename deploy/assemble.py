"""Installation of libraries and programs below /layers/NAME, during the build of image NAME.

python3 -m deploy.assemble libraries WHEELHOUSE REQUIREMENTS   make a directory for each layer
python3 -m deploy.assemble programs WHEEL                      make one for each image, with the
                                                               packages that it runs
"""

from __future__ import annotations

import configparser
import py_compile
import shutil
import subprocess
import sys
import zipfile
from compileall import compile_dir
from pathlib import Path

from deploy.contents import IMAGES

LAYERS = Path("/layers")
PREFIX = "opt/fedcloud"
SITE = f"{PREFIX}/lib/python3.11/site-packages"

NEVER_IMPORTED = (
    "setuptools",
    "_distutils_hack",
    "distutils-precedence.pth",
    "pkg_resources",
    "pycparser",
    "bin",
)
"""Build tools that dependencies list for their own build, and programs of libraries."""
_TESTS = ("tests", "test", "testing_data")


def libraries(wheelhouse: Path, requirements: Path) -> None:
    """Install each list of requirements into a directory of its own."""
    # pip runs from its wheel, so that it is not in the image.
    (pip,) = wheelhouse.glob("pip-*.whl")
    for path in sorted(requirements.glob("*.txt")):
        site = LAYERS / path.stem / SITE
        site.mkdir(parents=True)
        options = (
            "--no-index",
            "--no-deps",
            "--no-compile",
            "--require-hashes",
            "--only-binary=:all:",
            "--no-cache-dir",
        )
        subprocess.run(
            [
                *(
                    sys.executable,
                    pip / "pip",
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                    *options,
                ),
                *(
                    "--root-user-action=ignore",
                    "--find-links",
                    wheelhouse,
                    "--target",
                    site,
                    "--requirement",
                    path,
                ),
            ],
            check=True,
        )
        _strip(site)
        _compile(LAYERS / path.stem)


def _strip(site: Path) -> None:
    for name in NEVER_IMPORTED:
        for path in (site / name, *site.glob(f"{name}-*.dist-info")):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    for directory in [path for path in site.rglob("*") if path.is_dir() and path.name in _TESTS]:
        shutil.rmtree(directory, ignore_errors=True)
    for pattern in ("*.pyi", "*.pyx", "*.pxd", "*.c", "*.h", "*.po", "*.mo"):
        for path in site.rglob(pattern):
            path.unlink()


def programs(wheel: Path) -> None:
    """Copy our packages and write our programs, for each image."""
    unpacked = Path("/unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    (metadata,) = unpacked.glob("*.dist-info")
    entry_points = configparser.ConfigParser(delimiters=["="])
    entry_points.read(metadata / "entry_points.txt")
    for name, image in IMAGES.items():
        site = LAYERS / name / SITE
        for package in ("appliance", *image.packages):
            shutil.copytree(
                unpacked / package, site / package, ignore=shutil.ignore_patterns("admin")
            )
        shutil.copytree(metadata, site / metadata.name)
        binaries = LAYERS / name / PREFIX / "bin"
        binaries.mkdir()
        # Not made by venv, which would add pip, activation scripts and paths of the build.
        (binaries / "python").symlink_to("/usr/bin/python3.11")
        (LAYERS / name / PREFIX / "pyvenv.cfg").write_text(
            "home = /usr/bin\ninclude-system-site-packages = false\n"
        )
        for program in image.programs:
            module, _, function = entry_points["console_scripts"][program].partition(":")
            path = binaries / program
            path.write_text(
                f"#!/{PREFIX}/bin/python\nimport sys\n\nfrom {module} import {function}\n\n"
                f"sys.exit({function}())\n"
            )
            path.chmod(0o755)
        _compile(LAYERS / name)


def _compile(layer: Path) -> None:
    """Compile without a check for changes, because files of an image do not change.

    The account of a container could not write a new file anyway.
    """
    done = compile_dir(
        layer,
        quiet=1,
        stripdir=str(layer),
        prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    if not done:
        raise SystemExit(f"{layer}: not all files could be compiled")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["libraries", found, lists]:
            libraries(Path(found), Path(lists))
        case ["programs", found]:
            programs(Path(found))
        case _:
            sys.exit(__doc__)
