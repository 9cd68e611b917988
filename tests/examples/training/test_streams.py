"""Both training scripts on a stream: the length of epochs, going on within one, and several processes."""

import shutil

import pytest

from examples import compare_vit_finetuning, evaluate_batches, relational_reasoning
from examples.data import __main__ as show_data
from examples.data.streaming import StreamedImages
from examples.errors import InputError
from tests.examples.conftest import make_tiny_flags
from tests.examples.helpers import assert_same_weights, read_results
from tests.examples.shards import SIZES, write_shards
from tests.examples.training.test_several_processes import SCRIPTS, run_on_two


NUM_TRAIN = sum(SIZES["train"])


@pytest.fixture(params=SCRIPTS)
def loop(request):
    return request.param


def make_stream_flags(output_dir, folder, **flags):
    """Flags of a run on a stream: epochs of six batches, saved in their middle as well."""
    stream = {"dataset_name": str(folder), "streaming": True, "shuffle_buffer_size": 7, "max_train_samples": None}
    stream |= {"per_device_train_batch_size": 8, "save_strategy": "steps", "save_steps": 2, "max_steps": 8}
    return make_tiny_flags(output_dir, **{**stream, **flags})


def record_samples(monkeypatch):
    """A list that gets the number of each sample that is decoded, in the order of their use."""
    seen = []
    make_sample = StreamedImages.make_sample

    def record(self, index, encoded):
        seen.append(int(self.samples[index]))
        return make_sample(self, index, encoded)

    monkeypatch.setattr(StreamedImages, "make_sample", record)
    return seen


def forget_steps_after(folder, step):
    """Leave a folder as a kill after the checkpoint of a step leaves it."""
    for path in (folder / "results.json", folder / "model.safetensors"):
        path.unlink()
    for path in folder.glob("checkpoint-*"):
        if int(path.name.rpartition("-")[2]) > step:
            shutil.rmtree(path)


def test_every_epoch_takes_each_sample_once(loop, tmp_path, monkeypatch):
    seen = record_samples(monkeypatch)
    folder = write_shards(tmp_path / "set", "tar")
    SCRIPTS[loop].main(make_stream_flags(tmp_path / "run", folder, max_steps=-1, num_train_epochs=2))
    assert sorted(seen[:NUM_TRAIN]) == sorted(seen[NUM_TRAIN:]) == list(range(NUM_TRAIN))
    assert seen[:NUM_TRAIN] != seen[NUM_TRAIN:]
    results = read_results(tmp_path / "run")
    assert (results["num_steps"], results["num_train_samples"], results["num_eval_samples"]) == (12, NUM_TRAIN, 13)


@pytest.mark.parametrize(("step", "more"), [(4, {}), (6, {"dataloader_num_workers": 2})])
def test_run_goes_on_within_an_epoch(loop, step, more, tmp_path, monkeypatch):
    folder = write_shards(tmp_path / "set")
    flags = make_stream_flags(tmp_path / "run", folder, save_total_limit=None, **more)
    seen = record_samples(monkeypatch)
    SCRIPTS[loop].main(flags)
    whole = shutil.copytree(tmp_path / "run", tmp_path / "whole")
    uninterrupted = list(seen)
    forget_steps_after(tmp_path / "run", step)
    seen.clear()
    SCRIPTS[loop].main(flags)
    assert read_results(tmp_path / "run")["resumed_from_step"] == step
    assert_same_weights(tmp_path / "run", whole)
    if not more:
        # An epoch ends with a smaller batch.
        num_seen = min(8 * step, NUM_TRAIN)
        assert seen == uninterrupted[num_seen:] and len(seen) < len(uninterrupted)


def test_accumulated_batches_end_with_the_epoch(loop, tmp_path, monkeypatch):
    folder = write_shards(tmp_path / "set")
    flags = {"gradient_accumulation_steps": 4, "max_steps": -1, "num_train_epochs": 2}
    SCRIPTS[loop].main(make_stream_flags(tmp_path / "run", folder, **flags, save_steps=3))
    whole = shutil.copytree(tmp_path / "run", tmp_path / "whole")
    assert read_results(whole)["num_steps"] == 4
    forget_steps_after(tmp_path / "run", 3)
    SCRIPTS[loop].main(make_stream_flags(tmp_path / "run", folder, **flags, save_steps=3))
    assert read_results(tmp_path / "run")["resumed_from_step"] == 3
    assert_same_weights(tmp_path / "run", whole)


def test_two_processes_share_uneven_shards_and_go_on(loop, tmp_path):
    folder = write_shards(tmp_path / "set")
    stream = ("--dataset_name", str(folder), "--streaming", "True", "--per_device_train_batch_size", "8")
    codes, printed = run_on_two(loop, tmp_path / "run", *stream)
    assert codes == [0, 0], printed
    whole = shutil.copytree(tmp_path / "run", tmp_path / "whole")
    assert read_results(whole)["num_steps"] == 4 and read_results(whole)["num_eval_samples"] == 13
    forget_steps_after(tmp_path / "run", 2)
    codes, printed = run_on_two(loop, tmp_path / "run", *stream)
    assert codes == [0, 0], printed
    assert read_results(tmp_path / "run")["resumed_from_step"] == 2
    assert_same_weights(tmp_path / "run", whole)


def test_stream_goes_on_with_the_processes_it_began_with(loop, tmp_path):
    folder = write_shards(tmp_path / "set")
    SCRIPTS[loop].main(make_stream_flags(tmp_path / "run", folder, max_steps=4))
    forget_steps_after(tmp_path / "run", 2)
    flags = make_stream_flags(tmp_path / "run", folder, max_steps=4, per_device_train_batch_size=4)
    codes, printed = run_on_two(loop, tmp_path / "run", *flags)
    assert codes == [1, 1] and "num_processes 1, now 2" in printed[0], printed
    assert "per_device_train_batch_size 8, now 4. Use the same arguments to resume it" in printed[0]


def test_stream_goes_on_with_the_workers_it_began_with(loop, tmp_path):
    folder = write_shards(tmp_path / "set")
    SCRIPTS[loop].main(make_stream_flags(tmp_path / "run", folder, max_steps=4))
    forget_steps_after(tmp_path / "run", 2)
    with pytest.raises(InputError, match=r"other arguments: dataloader_num_workers 0, now 2\. Use the same"):
        SCRIPTS[loop].main(make_stream_flags(tmp_path / "run", folder, max_steps=4, dataloader_num_workers=2))


def test_stream_of_one_buffer_trains_like_the_set_in_memory(tmp_path, monkeypatch):
    # With all samples in each batch, their order is all that may differ, and it does not matter to the loss.
    folder = write_shards(tmp_path / "set")
    still = {"model_config": {"hidden_dropout_prob": 0.0, "memory_dropout_prob": 0.0}}
    flags = {"max_steps": 2, "save_strategy": "no", "per_device_train_batch_size": NUM_TRAIN, **still}
    for name, more in (("stream", {}), ("memory", {"streaming": None, "shuffle_buffer_size": None})):
        SCRIPTS["trainer"].main(make_stream_flags(tmp_path / name, folder, **flags, **more))
    streamed, in_memory = (read_results(tmp_path / name) for name in ("stream", "memory"))
    assert streamed["train_loss"] == pytest.approx(in_memory["train_loss"], rel=1e-5)
    assert streamed["eval_loss"] == pytest.approx(in_memory["eval_loss"], rel=1e-4)


def test_other_division_of_batches_is_refused(tmp_path):
    flags = make_stream_flags(tmp_path / "run", write_shards(tmp_path / "set"))
    with pytest.raises(InputError, match="`dispatch_batches` in `--accelerator_config` has no effect"):
        SCRIPTS["trainer"].main([*flags, "--accelerator_config", '{"dispatch_batches": true}'])


def test_epoch_without_a_batch_is_refused(loop, tmp_path):
    flags = {"dataloader_drop_last": True, "per_device_train_batch_size": NUM_TRAIN + 1}
    with pytest.raises(InputError, match=f"there are {NUM_TRAIN} training samples, and a batch has {NUM_TRAIN + 1}"):
        SCRIPTS[loop].main(make_stream_flags(tmp_path / "run", write_shards(tmp_path / "set"), **flags))


@pytest.mark.parametrize(
    ("main", "flags"),
    [
        (relational_reasoning.main, ["--use_cpu", "True", "--output_dir", "run"]),
        (evaluate_batches.main, ["--checkpoints", "run"]),
        (compare_vit_finetuning.main, []),
        (show_data.main, ["triangle"]),
    ],
)
def test_scripts_that_do_not_stream_refuse_to(main, flags):
    with pytest.raises(InputError, match=r"`--streaming` has no effect on `examples\.\w+`: leave it out"):
        main([*flags, "--streaming", "True"])
