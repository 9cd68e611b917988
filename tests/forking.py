"""Python processes that fork from one that has imported what takes longest, so that each starts at once."""

import contextlib
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path


# Neither the package, which some processes must not find, nor transformers and the client of the Hub, which read the
# environment when they are imported.
SERVER = """
import contextlib, gc, json, os, sys, types
import PIL.Image, pandas, pyarrow.dataset, scipy.stats, sklearn.metrics, torch._dynamo, torch.distributed.tensor
with contextlib.suppress(ImportError):
    import torchao.quantization

# Each process would end by freeing all that was imported here, which takes longer than most of what it does.
gc.collect()
gc.freeze()
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
for number, place in enumerate((os.devnull, *request["outputs"])):
    os.dup2(os.open(place, os.O_RDWR | os.O_CREAT), number)
os.chdir(request["cwd"])
os.environ.clear()
os.environ.update(request["env"])
sys.path[:0] = "", *filter(None, request["env"].get("PYTHONPATH", "").split(os.pathsep))
sys.argv = ["-c", *request["arguments"]]
sys.modules["__main__"] = types.ModuleType("__main__")
exec(compile(request["code"], "<string>", "exec"), sys.modules["__main__"].__dict__)
"""


@functools.cache
def start_server():
    return subprocess.Popen(
        # Nothing is imported from where it starts, nor from where whoever runs the tests looks first.
        [sys.executable, "-P", "-c", SERVER],
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )


def run_forked(code, *arguments, cwd, env, timeout=300):
    """
    Run code as `python -c` does; returns what `subprocess.run` with captured text returns.

    All processes have one hash seed and begin with one state of NumPy's global generator.
    """
    server = start_server()
    command = ["-c", *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [str(Path(folder, name)) for name in ("stdout", "stderr")]
        for output in outputs:
            Path(output).touch()
        request = {"code": code, "arguments": command[1:], "cwd": str(cwd), "env": env, "outputs": outputs}
        try:
            print(json.dumps(request), file=server.stdin, flush=True)
            if not select.select([server.stdout], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(command, timeout, *(Path(output).read_text() for output in outputs))
            if not (answer := server.stdout.readline()):
                raise RuntimeError("The process that forks has ended: its errors say why.")
        except BaseException:
            # Its next answer would be to this request, if it lives at all.
            start_server.cache_clear()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            raise
        return subprocess.CompletedProcess(command, int(answer), *(Path(output).read_text() for output in outputs))
