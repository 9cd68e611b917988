"""
Try every mutant on a copy of the repository and count, for each folder of code, how many the tests notice.

    python -m tests.mutation [--only PATTERN] [--jobs N]

It fails where less than 95 % of a folder's mutants are noticed, where one no longer fits the code, and where the named
tests fail without any mutant.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from tests.mutation.mutants import REPOSITORY, Mutant, read_mutants


LEAST_SHARE = 0.95
KILLED, SURVIVED, BROKEN, EQUIVALENT = "killed", "survived", "broken", "equivalent"
# Exit statuses of pytest; any other but a failed test means that the mutant was not tried.
PASSED, FAILED = 0, 1


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def copy_repository(root: Path) -> None:
    """Copy what git tracks and what it would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, root / name)


def run_tests(root: Path, tests: list[str], seconds: float) -> tuple[int, str]:
    """Run tests in a copy of the repository until the first failure; return pytest's exit status and its words."""
    # Python would take a file changed twice within a second for its compiled predecessor.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return FAILED, f"it ran longer than {seconds:.0f} s"
    return result.returncode, result.stdout + result.stderr


def try_mutant(mutant: Mutant, copies: SimpleQueue[Path], seconds: float) -> str:
    """Put one fault into a free copy, run its tests, and take it out again."""
    if mutant.equivalent:
        return EQUIVALENT
    root = copies.get()
    file = root / mutant.file
    whole = file.read_text(encoding="utf-8")
    try:
        file.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
        status, output = run_tests(root, list(mutant.tests), seconds)
    finally:
        file.write_text(whole, encoding="utf-8")
        copies.put(root)
    outcome = {PASSED: SURVIVED, FAILED: KILLED}.get(status, BROKEN)
    say(f"{outcome:9} {mutant.file}: {mutant.what}")
    if outcome == BROKEN:
        say(output[-1500:])
    return outcome


def report(outcomes: list[tuple[Mutant, str]]) -> bool:
    """Print a row for each folder and the mutants that live; tell whether every folder has its share."""
    for mutant, outcome in outcomes:
        if outcome == EQUIVALENT:
            say(f"{outcome} {mutant.file}: {mutant.what}. {mutant.equivalent}")
    is_enough = True
    say(f"\n{'folder':15}{KILLED:>9}{SURVIVED:>10}{BROKEN:>8}{EQUIVALENT:>12}{'share':>8}")
    for folder in sorted({mutant.folder for mutant, _ in outcomes}):
        counts = Counter(outcome for mutant, outcome in outcomes if mutant.folder == folder)
        tried = counts[KILLED] + counts[SURVIVED] + counts[BROKEN]
        share = counts[KILLED] / tried if tried else 1.0
        is_enough = is_enough and share >= LEAST_SHARE
        say(
            f"{folder:15}{counts[KILLED]:9}{counts[SURVIVED]:10}{counts[BROKEN]:8}{counts[EQUIVALENT]:12}"
            f"{100 * share:7.1f}%"
        )
    return is_enough


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description="Try every mutant on a copy.")
    parser.add_argument("--only", default="", metavar="PATTERN", help="regular expression on file and description")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time (default: 1)")
    parser.add_argument("--seconds", type=float, default=300, help="limit for the tests of one (default: 300)")
    options = parser.parse_args(argv)
    chosen = [each for each in read_mutants() if re.search(options.only, f"{each.file}: {each.what}")]
    stale = [f"{mutant.file}: {mutant.what}: {reason}" for mutant in chosen if (reason := mutant.find_staleness())]
    if stale or not chosen:
        say("\n".join(["These mutants are stale:", *stale] if stale else ["No mutant has this pattern."]))
        return 1
    with tempfile.TemporaryDirectory() as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for index in range(options.jobs):
            copies.put(Path(folder, f"copy_{index}"))
            copy_repository(Path(folder, f"copy_{index}"))
        tests = sorted({test for mutant in chosen for test in mutant.tests})
        if tests:
            status, output = run_tests(Path(folder, "copy_0"), tests, options.seconds * 10)
            if status != PASSED:
                say(f"The tests fail without any mutant:\n{output[-3000:]}")
                return 1
        with ThreadPoolExecutor(options.jobs) as executor:
            outcomes = list(executor.map(partial(try_mutant, copies=copies, seconds=options.seconds), chosen))
    return 0 if report(list(zip(chosen, outcomes))) else 1


if __name__ == "__main__":
    sys.exit(main())
