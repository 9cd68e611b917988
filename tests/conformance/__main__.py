"""Fetch transformers' common tests and run them on AiT."""

import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from tests.conformance.archive import ArchiveError, IndexUnreachableError, fetch_common_tests


FOLDER = Path(__file__).resolve().parent
REPOSITORY = FOLDER.parents[1]
EXIT_INDEX_UNREACHABLE = 75  # EX_TEMPFAIL of sysexits.h


def main(pytest_arguments: list[str]) -> int:
    """Run the common tests of the installed transformers and return the exit code."""
    try:
        common_tests = fetch_common_tests(version("transformers"), REPOSITORY / ".cache" / "conformance")
    except ArchiveError as error:
        sys.stderr.write(f"{error}\n")
        if isinstance(error, IndexUnreachableError):
            sys.stderr.write("The package index cannot be reached: the conformance tests did not run.\n")
            return EXIT_INDEX_UNREACHABLE
        return 1

    with tempfile.TemporaryDirectory() as checkpoints:
        # Read when transformers and the pipeline tests are imported, hence the imports below.
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["TRANSFORMERS_TINY_MODEL_PATH"] = checkpoints

        import pytest

        from tests.conformance.skips import SkipAudit
        from tests.conformance.stand_ins import importable_common_tests
        from tests.conformance.tiny_ait import save_checkpoints

        save_checkpoints(Path(checkpoints))
        # Neither the repository's pytest settings nor its fixtures are meant for these tests.
        options = ["-c", os.devnull, f"--rootdir={REPOSITORY}", "--noconftest", "-p", "no:cacheprovider"]
        options += ["--quiet", "--disable-warnings", "--tb=short", "-rfE", str(FOLDER / "common_tests_ait.py")]
        with importable_common_tests(common_tests):
            return int(pytest.main([*options, *pytest_arguments], plugins=[SkipAudit()]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
