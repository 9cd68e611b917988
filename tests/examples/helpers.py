"""What tests of the training scripts share: processes of their own, and questions to an output folder."""

import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys

import torch
from safetensors.torch import load_file


# What the scripts import late: some ten seconds, which each process would take anew.
IMPORTED_LATE = ["examples.training.trainer", "examples.data.images", "examples.training.publishing"]


def get_context(module):
    """Processes that fork from one that has imported a module, so that they start at once and share nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module, __name__, *IMPORTED_LATE])
    return context


def find_free_port():
    """A port at which processes of one training can meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def read_results(folder):
    return json.loads((folder / "results.json").read_text())


def assert_same_weights(folder, other):
    weights, others = load_file(folder / "model.safetensors"), load_file(other / "model.safetensors")
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, others[name]), name


class ForkedCommand:
    """What `subprocess.Popen` gives, of `python -m MODULE ...` in a process that need not import everything anew."""

    def __init__(self, command, stdout, stderr, env, start_new_session):
        assert command[:2] == [sys.executable, "-m"] and stderr == subprocess.STDOUT and start_new_session
        arguments = (*command[2:3], command[3:], stdout.name, env)
        self.process = get_context("examples.image_classification").Process(target=run_module, args=arguments)
        self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.process.exitcode

    def wait(self, timeout=None):
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.process.name, timeout)
        return self.process.exitcode


def run_module(module, arguments, log, environment):
    """Run a module as `python -m` does, in a session of its own."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ |= environment
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")
