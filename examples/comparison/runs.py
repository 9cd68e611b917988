"""Running what is planned: several processes at a time, with progress, none of which outlives the comparison."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from examples.comparison.plan import Run, RunKey
from examples.errors import InputError, read_json
from examples.sharing import join_command, redact
from examples.training.results import write_text
from examples.training.run_folder import read_results


SCRIPTS = Path(__file__).parents[2]
POLL_SECONDS = 0.1
# How long a run may take to end when it is asked to, and to do so with a checkpoint.
GRACE_SECONDS, SAVE_SECONDS = 10, 60
# The status of a comparison with runs that remain: one may call it again (EX_TEMPFAIL).
TIME_IS_UP = 75
# The status of a run that was asked to end: with a checkpoint, without, or by force.
ENDED = (128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGKILL)


def copy_of_recipe(run: Run) -> Path:
    return run.folder.parent / f"{run.folder.name}.yaml"


def read_text_of_recipe(path: str) -> str:
    """A recipe as it is kept beside what was made of it: word by word, without secrets."""
    return redact(Path(path).read_text(encoding="utf-8"))


def has_changed(path: str, results: dict[str, Any]) -> bool:
    """Whether a recipe is no longer what results files keep of it; one that they do not keep counts as the same."""
    kept = results.get("recipes", {})
    return path in kept and kept[path] != read_text_of_recipe(path)


def is_finished(run: Run) -> bool:
    """Whether the folder of the run holds whole results; a run without goes on."""
    return bool(read_results(run.folder))


def read_run(run: Run) -> dict[str, Any]:
    """
    The results of a finished run.

    Raises:
        InputError: if its folder holds a run of another command, or of the recipe as it was before a change.
    """
    results = read_results(run.folder)
    command = join_command(run.command)
    if results.get("command") != command:
        raise InputError(
            f"{run.folder} holds the results of another command:\n  {results.get('command')}\nnot of\n  {command}\n"
            "Remove it or name another `--output_dir`."
        )
    copy = copy_of_recipe(run)
    if not copy.exists() or copy.read_text(encoding="utf-8") != read_text_of_recipe(run.key.recipe):
        raise InputError(
            f"{run.folder} holds the results of {run.key.recipe!r} as it was before a change. Remove it or name "
            "another `--output_dir`."
        )
    return results


def read_comparison(
    results_file: Path, planned: list[Run], overwrite: bool, kind: str = "comparison"
) -> dict[str, Any]:
    """
    Read the results file of an earlier call; empty if there is none.

    Raises:
        InputError: if it holds what this comparison would not write again, or runs of a recipe that has changed,
            and may not be overwritten.
    """
    if overwrite or not results_file.exists():
        return {}
    earlier = read_json(results_file)
    is_whole = earlier.get("kind") == kind and has_whole_runs(earlier)
    lost = list_commands(earlier) - {join_command(run.command) for run in planned} if is_whole else set()
    if not is_whole or lost:
        other = f"something else than whole results of the kind {kind!r}"
        reason = f"the run of another command, {min(lost)!r}" if lost else other
        raise InputError(
            f"{results_file} holds {reason}, which would be lost. Name another `--results`, or say `--overwrite True`."
        )
    for path in sorted({run.key.recipe for run in planned}):
        if has_changed(path, earlier):
            raise InputError(
                f"{results_file} holds the results of {path!r} as it was before a change. Name another `--results` "
                "and another `--output_dir`."
            )
    return earlier


def find_known_runs(earlier: dict[str, Any], planned: list[Run]) -> dict[RunKey, dict[str, Any]]:
    """The planned runs that a results file has, made with recipes that it keeps; their folders may be elsewhere."""
    recipes = earlier.get("recipes", {})
    known = {run["command"]: run for run in earlier.get("runs", []) if run["recipe"] in recipes}
    return {run.key: known[command] for run in planned if (command := join_command(run.command)) in known}


def has_whole_runs(results: dict[str, Any]) -> bool:
    """Whether the fields of a results file that a comparison goes on with are what they should be."""
    runs = results.get("runs")
    return (
        isinstance(runs, list)
        and all(isinstance(run, dict) for run in runs)
        and all(isinstance(run.get("accuracy"), (int, float)) for run in runs)
        and all(isinstance(run.get(name), str) for run in runs for name in ("command", "label", "recipe"))
        and all(isinstance(results.get(name, {}), dict) for name in ("costs", "recipes"))
    )


def list_commands(results: dict[str, Any]) -> set[str]:
    """The commands of all runs of a comparison."""
    return {run["command"] for run in results.get("runs", [])}


def list_remaining(file: Path, runs: list[Run], costs_remain: bool) -> None:
    """List what a comparison in slices has still to do; without anything the file goes."""
    lines = [join_command(run.command) for run in runs] + ["# the costs of all models"] * costs_remain
    if lines:
        write_text(file, "\n".join(lines) + "\n")
    else:
        file.unlink(missing_ok=True)


def end_slice(file: Path, runs: list[Run], costs_remain: bool) -> None:
    """List what remains in a file; if anything does, the time is up, and the process ends."""
    list_remaining(file, runs, costs_remain)
    if runs or costs_remain:
        print(f"The time is up. What remains is listed in {file}; the same command goes on.", flush=True)
        raise SystemExit(TIME_IS_UP)


def start_run(run: Run, num_threads: int) -> subprocess.Popen:
    """
    Start a run in a process group of its own, with its output in its log.

    It gets that many threads, unless OMP_NUM_THREADS says how many: more than there are free cores would wait for each
    other.
    """
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    write_text(copy_of_recipe(run), read_text_of_recipe(run.key.recipe))
    # The run finds the scripts where they were found here, which need not be the working directory.
    path = [str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    with run.log.open("w", encoding="utf-8") as log:
        log.write(f"{join_command(run.command)}\n")
        log.flush()
        return subprocess.Popen(
            [sys.executable, *run.command[1:]],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"OMP_NUM_THREADS": str(num_threads), **os.environ, "PYTHONPATH": os.pathsep.join(path)},
            start_new_session=True,
        )


def stop_runs(processes: Iterable[subprocess.Popen], seconds: float = GRACE_SECONDS) -> None:
    """End the processes and whatever they started; what does not end when it is asked to is killed."""
    processes = list(processes)
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def end_on_signal(number: int, frame: Any = None) -> None:
    """Turn a signal that ends a process into an exit that still cleans up."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


@contextmanager
def handle_signals(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """Give the signals that end a process to a handler."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def describe_progress(num_finished: int, num_runs: int, seconds: float) -> str:
    """Elapsed and remaining time, from the mean of the runs so far."""
    remaining = seconds / num_finished * (num_runs - num_finished)
    elapsed, left = (timedelta(seconds=round(value)) for value in (seconds, remaining))
    return f"{num_finished} of {num_runs} done, elapsed {elapsed}, about {left} remaining"


def execute_runs(
    runs: list[Run],
    num_parallel: int,
    on_finish: Callable[[Run, dict[str, Any]], None],
    deadline: float = math.inf,
) -> None:
    """
    Run all, `num_parallel` at a time, and hand over the results of each as it ends.

    However this ends, no process that it started goes on. At the deadline, a time of the monotonic clock, the
    runs are asked to end, which they do with a checkpoint, and no other starts.

    Raises:
        InputError: if a run fails, with the end of its log.
    """
    num_threads = max(1, (os.cpu_count() or 1) // num_parallel)
    waiting, running = list(runs), dict[Run, subprocess.Popen]()
    start, num_finished = time.monotonic(), 0
    # Noted at once and obeyed below, so that none comes between a start and its record, or breaks into the end.
    received: list[int] = []
    with handle_signals(lambda number, frame: received.append(number)):
        try:
            while waiting or running:
                if time.monotonic() > deadline:
                    stop_runs(running.values(), SAVE_SECONDS)
                    waiting.clear()
                while waiting and len(running) < num_parallel:
                    run = waiting.pop(0)
                    running[run] = start_run(run, num_threads)
                    print(f"run {len(runs) - len(waiting)} of {len(runs)}: {run.title}; log: {run.log}", flush=True)
                time.sleep(POLL_SECONDS)
                if received:
                    end_on_signal(received[0])
                for run in [run for run, process in running.items() if process.poll() is not None]:
                    process = running.pop(run)
                    status = process.returncode
                    if time.monotonic() > deadline and status in ENDED:
                        continue
                    if status != 0 or not is_finished(run):
                        stop_runs([process])
                        end = run.log.read_text(encoding="utf-8", errors="replace")[-1500:]
                        raise InputError(
                            f"The run failed with status {status}: {join_command(run.command)}\nIts log {run.log} "
                            f"ends with:\n{end}"
                        )
                    results = read_run(run)
                    on_finish(run, results)
                    num_finished += 1
                    progress = describe_progress(num_finished, len(runs), time.monotonic() - start)
                    print(f"{run.title}: {100 * results['accuracy']:.2f} %; {progress}", flush=True)
            if received:
                end_on_signal(received[0])
        finally:
            stop_runs(running.values())
