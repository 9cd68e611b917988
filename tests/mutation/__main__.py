"""
Try every mutant on a copy of the repository and count, for each folder of code, how many the tests notice.

    python -m tests.mutation [--only PATTERN] [--jobs N]

It fails where less than 95 % of a folder's mutants are noticed, where one no longer fits the code, and where the named
tests fail without any mutant.
"""

import argparse
import importlib
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from tests.mutation.mutants import REPOSITORY, Mutant, read_mutants


LEAST_SHARE = 0.95
KILLED, SURVIVED, BROKEN, EQUIVALENT = "killed", "survived", "broken", "equivalent"
# Exit statuses of pytest; any other but a failed test means that the mutant was not tried.
OUTCOMES = {0: SURVIVED, 1: KILLED}
# Imported once: they take longer to import than most tests to run. Not `datasets`, which reads its cache's place then.
LIBRARIES = ("numpy", "pytest", "scipy.stats", "torch", "transformers", "transformers.modeling_utils")


class Trial(NamedTuple):
    """Tests that run in a copy of the repository with a mutant, or without."""

    mutant: Mutant | None
    root: Path
    process: BaseProcess
    deadline: float


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def copy_repository(root: Path) -> None:
    """Copy what git tracks and what it would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, root / name)


def run_tests(root: Path, tests: list[str]) -> None:
    """Run tests in a copy of the repository until the first failure, in this process, which ends with their status."""
    os.chdir(root)
    sys.path[0] = str(root)
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]
    log = os.open("mutation.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import pytest

    status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
    sys.stdout.flush()
    os._exit(status)


def start_trial(mutant: Mutant | None, root: Path, tests: list[str], seconds: float) -> Trial:
    """Make a copy of the repository, put the fault in, and start its tests."""
    copy_repository(root)
    if mutant is not None:
        file = root / mutant.file
        file.write_text(file.read_text(encoding="utf-8").replace(mutant.old, mutant.new), encoding="utf-8")
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=(root, tests))
    process.start()
    return Trial(mutant, root, process, time.monotonic() + seconds)


def end_trial(trial: Trial) -> str:
    """What became of a trial whose process has ended, or whose time is over."""
    is_late = trial.process.is_alive()
    if is_late:
        trial.process.kill()
    trial.process.join()
    outcome = KILLED if is_late else OUTCOMES.get(int(trial.process.exitcode or 0), BROKEN)
    if outcome == BROKEN or (trial.mutant is None and outcome != SURVIVED):
        say((trial.root / "mutation.log").read_text(encoding="utf-8", errors="replace")[-3000:])
    shutil.rmtree(trial.root)
    return outcome


def try_mutants(mutants: list[Mutant], folder: Path, num_jobs: int, seconds: float) -> dict[Mutant, str]:
    """Try the mutants, `num_jobs` at a time."""
    outcomes = {mutant: EQUIVALENT for mutant in mutants if mutant.equivalent}
    waiting = [mutant for mutant in mutants if not mutant.equivalent]
    running: list[Trial] = []
    while waiting or running:
        while waiting and len(running) < num_jobs:
            mutant = waiting.pop(0)
            running.append(start_trial(mutant, folder / f"copy_{len(waiting)}", list(mutant.tests), seconds))
        wait([trial.process.sentinel for trial in running], timeout=1)
        for trial in [each for each in running if not each.process.is_alive() or time.monotonic() > each.deadline]:
            running.remove(trial)
            outcomes[trial.mutant] = end_trial(trial)
            say(f"{outcomes[trial.mutant]:9} {trial.mutant.file}: {trial.mutant.what}")
    return outcomes


def report(outcomes: dict[Mutant, str]) -> bool:
    """Print a row for each folder; tell whether every folder has its share."""
    for mutant, outcome in outcomes.items():
        if outcome in (EQUIVALENT, SURVIVED, BROKEN):
            say(f"{outcome}: {mutant.file}: {mutant.what}. {mutant.equivalent}".rstrip())
    is_enough = True
    say(f"\n{'folder':15}{KILLED:>9}{SURVIVED:>10}{BROKEN:>8}{EQUIVALENT:>12}{'share':>8}")
    for folder in sorted({mutant.folder for mutant in outcomes}):
        counts = Counter(outcome for mutant, outcome in outcomes.items() if mutant.folder == folder)
        tried = counts[KILLED] + counts[SURVIVED] + counts[BROKEN]
        share = counts[KILLED] / tried if tried else 1.0
        is_enough = is_enough and share >= LEAST_SHARE
        numbers = f"{counts[KILLED]:9}{counts[SURVIVED]:10}{counts[BROKEN]:8}{counts[EQUIVALENT]:12}"
        say(f"{folder:15}{numbers}{100 * share:7.1f}%")
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
    # Python would take a file changed twice within a second for its compiled predecessor.
    sys.dont_write_bytecode = True
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    for name in LIBRARIES:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        # What the tests leave behind goes with it.
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        tests = sorted({test for mutant in chosen for test in mutant.tests})
        if tests:
            whole = start_trial(None, Path(folder, "whole"), tests, 20 * options.seconds)
            whole.process.join(20 * options.seconds)
            if end_trial(whole) != SURVIVED:
                say("These tests fail without any mutant.")
                return 1
        outcomes = try_mutants(chosen, Path(folder), options.jobs, options.seconds)
    return 0 if report(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
