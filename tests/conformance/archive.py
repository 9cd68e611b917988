"""Fetch the common tests of a transformers version from its source archive."""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path


NEEDED_FILES = ("test_configuration_common.py", "test_modeling_common.py", "test_pipeline_mixin.py")


class ArchiveError(Exception):
    """The archive cannot be had, or does not hold the common tests."""


class IndexUnreachableError(ArchiveError):
    """The package index does not answer."""


def fetch_common_tests(version: str, cache_folder: Path) -> Path:
    """Return the folder with the common tests of a transformers version, fetched on first use.

    Args:
        version: Version of transformers.
        cache_folder: Where fetched tests are kept. A run that is killed leaves no half-filled folder in it that a
            later run would use.

    Raises:
        IndexUnreachableError: If the tests are not cached and the package index does not answer.
        ArchiveError: If the index has no source archive of this version, or it lacks the common tests.
    """
    folder = cache_folder / f"transformers-{version}"
    if not folder.is_dir():
        cache_folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpack-", dir=cache_folder) as staging:
            unpacked = unpack_tests(download_archive(version, Path(staging)), version, Path(staging))
            try:
                unpacked.rename(folder)
            except OSError:
                # Another run may have been faster.
                if not folder.is_dir():
                    raise
    return folder / "tests"


def download_archive(version: str, destination: Path) -> Path:
    """Download the source archive with pip, which honours the user's index and compares the hash."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary=transformers", "--retries=1"]
    command += [f"--dest={destination}", f"transformers=={version}"]
    # The messages below are matched, and pip wraps and colours them for a terminal.
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "1000", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode != 0:
        # pip has one exit code for everything; a silent index shows as an empty list of versions.
        is_unreachable = re.search(
            r"from versions: none|connection broken|Max retries exceeded|timed out|HTTP error 5\d\d", result.stderr
        )
        error_class = IndexUnreachableError if is_unreachable else ArchiveError
        raise error_class(f"pip could not download transformers {version}:\n{result.stderr.strip()}")
    return destination / f"transformers-{version}.tar.gz"


def unpack_tests(archive: Path, version: str, destination: Path) -> Path:
    """Unpack only the tests of a source archive and return the folder that holds `tests`."""
    try:
        with tarfile.open(archive) as tar:
            root = f"transformers-{version}"
            members = [member for member in tar if member.name.startswith(f"{root}/tests/")]
            tar.extractall(destination, members, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ArchiveError(f"{archive.name} cannot be unpacked: {error}") from error
    missing = [name for name in NEEDED_FILES if not (destination / root / "tests" / name).is_file()]
    if missing:
        raise ArchiveError(f"{archive.name} lacks tests/{', tests/'.join(missing)}.")
    return destination / root
