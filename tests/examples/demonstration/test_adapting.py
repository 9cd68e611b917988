"""A memory that adapts: each visitor's own, measured as the study of online adaptation measures it."""

import copy
import re

import pytest
import torch

from examples.comparison.adaptation import CORRUPTIONS, measure_movement
from examples.demonstration.adapting import BATCH_SIZE, WRITTEN, Adapter, draw_curve, draw_last_images


@pytest.fixture(scope="module")
def adapter(opened):
    return Adapter(opened)


def equal(memories, others):
    return all(torch.equal(one, other) for one, other in zip(memories, others, strict=True))


def test_batches_are_classified_and_then_written(adapter, opened):
    stream = adapter.send(adapter.start(), "noise", 0.5, "written", 3)
    model = copy.deepcopy(opened.model)
    for number, batch in enumerate(stream.batches):
        generator = torch.Generator().manual_seed(number)
        rows = torch.randint(0, len(opened.images.labels), (BATCH_SIZE,), generator=generator)
        pixels, labels = opened.images.pixels[rows], opened.images.labels[rows]
        shifted = CORRUPTIONS["noise"](pixels, 0.5, generator)
        with torch.no_grad():
            read_only = opened.model(shifted).logits.argmax(dim=-1)
            written = model(shifted, update_memory=True).logits.argmax(dim=-1)
        assert batch.severity == 0.5
        assert batch.read_only == (read_only == labels).float().mean().item()
        assert batch.written == (written == labels).float().mean().item()
    assert equal(stream.memories, model.get_memories())
    assert not equal(stream.memories, opened.model.get_memories())


def test_visitors_do_not_share_a_memory(adapter):
    one = adapter.send(adapter.start(), "blur", 1.0, "written", 2)
    kept = [memory.clone() for memory in one.memories]
    other = adapter.send(adapter.start(), "noise", 1.0, "written", 3)
    assert equal(one.memories, kept) and not equal(other.memories, kept)
    assert equal(adapter.start().memories, adapter.trained)
    # In two parts as at once, whatever others do in between.
    parts = adapter.send(adapter.send(adapter.start(), "noise", 1.0, "written", 1), "noise", 1.0, "written", 2)
    assert parts.batches == other.batches and equal(parts.memories, other.memories)


def test_weights_are_shared_and_memories_are_not(adapter, opened):
    pairs = zip(opened.model.parameters(), adapter.model.parameters(), strict=True)
    assert all(one is other for one, other in pairs)
    before = opened.model.get_memories()
    adapter.model.set_memories([torch.zeros_like(memory) for memory in before])
    assert equal(opened.model.get_memories(), before) and not equal(adapter.model.get_memories(), before)


@pytest.mark.parametrize("way", WRITTEN)
def test_every_way_gives_a_memory_of_its_own(adapter, way):
    stream = adapter.send(adapter.start(), "hidden pixels", 0.5, way, 2)
    distance = measure_movement(stream.memories, adapter.trained)
    # A write of this model leads further than the limit, and is taken back.
    assert distance == 0 if way == "written, within a limit" else distance > 0
    assert len(stream.batches) == 2


def test_table_tells_of_both_memories(adapter):
    assert "so far" not in adapter.describe(adapter.start())
    stream = adapter.send(adapter.start(), "noise", 0.2, "written", 4)
    table = adapter.describe(stream)
    rows = {row.split(" | ")[0].strip("| "): row.strip("| ").split(" | ")[1:] for row in table.splitlines()}
    shares = [sum(getattr(batch, name) for batch in stream.batches) / 4 for name in ("read_only", "written")]
    assert rows[f"Accuracy on the stream so far (4 batches of {BATCH_SIZE})"] == [f"{100 * s:.1f} %" for s in shares]
    with torch.no_grad():
        logits = adapter.opened.model(adapter.images.pixels).logits
    accuracy = (logits.argmax(dim=-1) == adapter.images.labels).float().mean()
    assert rows["Accuracy on images as they are"][0] == f"{100 * accuracy:.1f} %"
    distance = measure_movement(stream.memories, adapter.trained)
    assert rows["Mean distance of a slot from where training left it"] == ["0", f"{distance:.3f}"]


def test_curve_and_images_are_drawn(adapter):
    start = adapter.start()
    assert "No batch" in draw_curve(start) and draw_last_images(start) == ""
    stream = adapter.send(start, "noise", 0.0, "written", 1)
    later = adapter.send(stream, "noise", 1.0, "written", 1)
    drawn = [draw_curve(stream), draw_curve(later), draw_last_images(stream), draw_last_images(later)]
    assert len(set(drawn)) == 4
    assert all(re.search(r'src="data:image/png;base64,[\w+/]{500}', picture) for picture in drawn)
