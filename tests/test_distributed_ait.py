"""The exchange between processes: they train as one process does with the whole batch."""

import time
from functools import partial

import pytest
import torch
from torch import distributed, nn
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_ait import distributed_ait, modeling_ait, workspace_ait
from tests import processes
from tests.processes import NUM_STEPS, SETTINGS, Setting, draw_batch, run_on_processes, train, train_all


WORLDS = (2, 3, 4)
# Where the processes' results are those of one process.
OTHER = ("bfloat16", "dropout", "dropout with checkpointing", "not finite", "apart")
SAME = [name for name in SETTINGS if name not in OTHER]


@pytest.fixture(scope="module", params=WORLDS)
def trained(request, tmp_path_factory):
    """What every process of 2, 3 and 4 has trained, in every setting."""
    codes, results, errors = run_on_processes(train_all, request.param, tmp_path_factory.mktemp("processes"))
    assert codes == [0] * request.param, errors
    return results


def assert_close(found, expected, where, tolerance=1e-5):
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(
            found, expected, rtol=tolerance, atol=tolerance, msg=lambda text: f"{where}: {text}"
        )
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(found[name], value, f"{where} {name}", tolerance)
    else:
        assert len(found) == len(expected) > 0
        for index, value in enumerate(expected):
            assert_close(found[index], value, f"{where}[{index}]", tolerance)


@pytest.mark.parametrize("name", SAME)
def test_processes_train_as_one_process_does_with_the_whole_batch(trained, name):
    expected = train(SETTINGS[name], 0, 1)
    for rank, result in enumerate(trained):
        for field in ("balance_loss", "memories", "gradients", "weights"):
            assert_close(result[name][field], expected[field], f"{name}, process {rank}, {field}")
    task_losses = torch.stack([torch.stack(result[name]["task_loss"]) for result in trained]).mean(dim=0)
    assert_close(task_losses, torch.stack(expected["task_loss"]), name)


@pytest.mark.parametrize("name", SETTINGS)
def test_memories_of_all_processes_are_equal_bit_for_bit(trained, name):
    first = trained[0][name]
    for result in trained[1:]:
        for step in range(NUM_STEPS):
            for memory, other in zip(first["memories"][step], result[name]["memories"][step], strict=True):
                assert torch.equal(memory, other)
            # Each process has its own bottleneck where nothing is synchronized.
            if name == "apart":
                assert not torch.equal(first["balance_loss"][step], result[name]["balance_loss"][step])
            elif name != "not finite":
                assert torch.equal(first["balance_loss"][step], result[name]["balance_loss"][step])


@pytest.mark.parametrize("name", ["dropout", "dropout with checkpointing"])
def test_dropout_of_the_write_is_drawn_once_for_all_processes(trained, name):
    dropped = trained[0][name]["memories"][0][0]
    whole = trained[0]["equal batches"]["memories"][0][0]
    assert not torch.allclose(dropped, whole, atol=1e-3)


def test_checkpointing_recomputes_the_same_dropout(trained):
    for field in ("memories", "gradients"):
        assert_close(trained[0]["dropout with checkpointing"][field], trained[0]["dropout"][field], field)


def test_process_with_a_value_that_is_not_finite_keeps_all_memories_as_they_were(trained):
    for result in trained:
        before, after, _ = result["not finite"]["memories"]
        assert all(torch.equal(memory, other) for memory, other in zip(before, after, strict=True))
        start = processes.make_model(Setting()).ait.memories
        assert not any(torch.equal(memory, other) for memory, other in zip(start, before, strict=True))


def test_mixed_precision_rounds_as_one_process_does(trained):
    expected = train(SETTINGS["bfloat16"], 0, 1)
    for result in trained:
        for field in ("memories", "weights"):
            assert_close(result["bfloat16"][field][0], expected[field][0], field, tolerance=0.05)


def test_evaluation_needs_no_other_process(trained):
    start = processes.make_model(Setting()).ait.memories
    written, *untouched = (result["alone"] for result in trained)
    assert not any(torch.equal(memory, other) for memory, other in zip(written, start, strict=True))
    for memories in untouched:
        assert all(torch.equal(memory, other) for memory, other in zip(memories, start, strict=True))


def write_apart(setting, rank, num_processes):
    """One step's memories of one process, before they are averaged."""
    model = processes.make_model(setting)
    start = sum(setting.sizes[num_processes][:rank])
    images = draw_batch(setting, 0, 0)["pixel_values"][start : start + setting.sizes[num_processes][rank]]
    model(images)
    return model.ait.memories


def test_without_synchronization_the_memories_are_averaged(trained):
    apart = [write_apart(SETTINGS["apart"], rank, len(trained)) for rank in range(len(trained))]
    for layer_index, memory in enumerate(trained[0]["apart"]["memories"][0]):
        mean = torch.stack([memories[layer_index] for memories in apart]).mean(dim=0)
        torch.testing.assert_close(memory, nn.functional.normalize(mean, dim=-1))


def test_one_process_exchanges_nothing(make_model, monkeypatch):
    """Neither without a process group nor in a group of one."""
    monkeypatch.delattr(workspace_ait, "find_winners")
    monkeypatch.delattr(workspace_ait, "sum_over_processes")
    monkeypatch.delattr(modeling_ait, "average_over_processes")
    model, images = make_model().train(), torch.randn(2, 3, 8, 12)
    alone = model(images).logits
    model.reset_memories()
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        assert distributed_ait.count_processes() == 1
        assert torch.equal(model(images).logits, alone)
    finally:
        distributed.destroy_process_group()


def fail_on_one(rank, num_processes):
    """The last process fails in its second step."""
    for step in range(2):
        if step == 1 and rank == num_processes - 1:
            raise RuntimeError("this process has failed")
        train(Setting(), rank, num_processes)


def hang_on_one(rank, num_processes):
    """The last process never comes to its second step."""
    train(Setting(), rank, num_processes)
    if rank == num_processes - 1:
        time.sleep(8)
    train(Setting(), rank, num_processes)


def test_process_that_fails_ends_the_others(tmp_path):
    codes, _, errors = run_on_processes(fail_on_one, 3, tmp_path)
    assert codes == [1, 1, 1]
    assert "this process has failed" in errors[2]
    assert all("DistBackendError" in error or "RuntimeError" in error for error in errors[:2])


def test_process_that_hangs_ends_the_others_within_the_timeout_of_the_group(tmp_path):
    codes, _, errors = run_on_processes(hang_on_one, 2, tmp_path, seconds=4, limit=20)
    assert codes[0] == 1 and "imed out" in errors[0], errors


COLLECTIVES = ("_c10d_functional.all_reduce.default", "_c10d_functional.all_gather_into_tensor.default")


def count_bytes(function):
    """Call it with every collective's own tensors counted."""
    sizes = []

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, arguments=(), options=None):
            if str(operation) in COLLECTIVES:
                sizes.append(arguments[0].numel() * arguments[0].element_size())
            return operation(*arguments, **(options or {}))

    with Counter():
        function()
    return sizes


def train_once(model, images, labels):
    model(images, labels).loss.backward()


def count_exchange(rank, num_processes):
    """What a step with 2, and with 20 images of each process hands over."""
    counted = []
    for num_images in (2, 20):
        model = processes.make_model(Setting())
        images = torch.randn(num_images, 3, 8, 12)
        labels = torch.zeros(num_images, dtype=torch.long)
        counted.append(count_bytes(partial(train_once, model, images, labels)))
    return counted


def test_exchange_does_not_grow_with_the_batch(tmp_path):
    codes, results, errors = run_on_processes(count_exchange, 2, tmp_path)
    assert codes == [0, 0], errors
    num_heads, num_slots, slot_size, kept = 2, 3, 4, 5
    gathered = num_heads * num_slots * kept
    summed = num_slots * num_heads * slot_size + num_heads * num_slots + 1 + num_slots * slot_size
    # The logits, the values with their weights and the squares of the balance loss; for those two, gradients too.
    layer = [4 * gathered, 4 * summed, 4 * 2]
    for small, large in results:
        assert small == large
        assert sorted(small) == sorted(2 * layer + 2 * layer[1:])
