"""Drifting streams, blank batches and the guards of the memory."""

import pytest
import torch

from examples.comparison.adaptation import (
    CORRUPTIONS,
    WAYS,
    Images,
    classify_and_write,
    measure_accuracy,
    measure_movement,
    measure_spread,
    run_stream,
    write_batches,
)


@pytest.fixture
def model(make_model):
    return make_model().eval()


@pytest.fixture
def images(make_images):
    return Images(make_images(12), torch.arange(12) % 3)


def are_equal(memories, others):
    return all(torch.equal(one, other) for one, other in zip(memories, others, strict=True))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruption_is_none_at_first_grows_and_is_repeatable(make_images, name):
    pixels = make_images(6)

    def corrupt(severity):
        return CORRUPTIONS[name](pixels.clone(), severity, torch.Generator().manual_seed(0))

    assert torch.equal(corrupt(0.0), pixels)
    distances = [(corrupt(severity) - pixels).norm().item() for severity in (0.25, 0.5, 1.0)]
    assert 0 < distances[0] < distances[1] < distances[2]
    assert torch.equal(corrupt(0.5), corrupt(0.5))
    assert corrupt(1.0).shape == pixels.shape and corrupt(1.0).isfinite().all()


def test_corruptions_are_as_strong_as_they_say():
    random = torch.Generator().manual_seed(0)
    pixels = torch.randn(4, 3, 64, 64, generator=random)
    noise = CORRUPTIONS["noise"](pixels, 1.0, random) - pixels
    assert noise.std().item() == pytest.approx(0.5, abs=0.01)
    # The same for all channels.
    torch.testing.assert_close(noise[:, 0], noise[:, 2], rtol=0, atol=1e-6)
    hidden = CORRUPTIONS["hidden pixels"](pixels, 1.0, random)
    is_hidden = hidden != pixels
    assert is_hidden.float().mean().item() == pytest.approx(0.5, abs=0.02)
    expected = pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels)[is_hidden]
    torch.testing.assert_close(hidden[is_hidden], expected)
    torch.testing.assert_close(
        CORRUPTIONS["blur"](pixels, 1.0, random)[0, 0, 10, 20], pixels[0, 0, 7:14, 17:24].mean(), rtol=1e-5, atol=1e-6
    )


def test_movement_and_spread_have_their_closed_forms():
    one, other = [torch.zeros(2, 3), torch.zeros(2, 3)], [torch.zeros(2, 3), torch.tensor([[3.0, 4, 0], [0, 0, 0]])]
    assert measure_movement(one, other) == pytest.approx((0 + 0 + 5 + 0) / 4)
    assert measure_spread(one) == 0
    assert measure_spread(other) == pytest.approx((0 + 0 + 2.5 + 2.5) / 4)


def test_a_write_beyond_the_limit_is_taken_back_and_one_within_stays(model, images):
    trained = model.get_memories()
    expected = model(images.pixels, update_memory=True).logits.argmax(dim=-1)
    moved = measure_movement(model.get_memories(), trained)
    for limit, is_taken_back in ((moved * 0.99, True), (moved * 1.01, False), (None, False)):
        model.set_memories(trained)
        assert torch.equal(classify_and_write(model, images.pixels, trained, limit), expected)
        assert are_equal(model.get_memories(), trained) is is_taken_back


def test_every_way_does_with_the_memory_what_it_says(model, images):
    model(images.pixels.flip(0), update_memory=True)
    trained = model.get_memories()
    states = {}
    for name, way in WAYS.items():
        model.set_memories(trained)
        for _ in range(2):
            way(model, images.pixels, trained, 1e-6)
        states[name] = model.get_memories()

    def write(memories, times):
        model.set_memories(memories)
        for _ in range(times):
            model(images.pixels, update_memory=True)
        return model.get_memories()

    model.reset_memories()
    initial = model.get_memories()
    expected = [trained, write(trained, 2), trained, write(trained, 1), write(initial, 1)]
    for name, memories in zip(WAYS, expected, strict=True):
        assert are_equal(states[name], memories), name
    assert not are_equal(expected[1], expected[3]) and not are_equal(expected[3], expected[4])


def test_streams_show_every_way_the_same_batches_and_leave_the_model_as_it_was(model, images, monkeypatch):
    seen = {}
    plain = dict(WAYS)
    for name in WAYS:

        def record(model, pixels, trained, limit, name=name):
            seen.setdefault(name, []).append(pixels.clone())
            return plain[name](model, pixels, trained, limit)

        monkeypatch.setitem(WAYS, name, record)
    trained = model.get_memories()
    for name in WAYS:
        results = run_stream(model, images, "noise", name, 3, 5, limit=1.0, seed=7)
        assert are_equal(model.get_memories(), trained)
        assert len(results["accuracies"]) == 3 and all(0 <= value <= 1 for value in results["accuracies"])
        assert (results["movement"] == 0) is (name == "read only")
    first, *others = seen.values()
    assert first[0].shape == (5, 3, 8, 12)
    # The first batch is clean: each of its images is one of those given.
    assert all(any(torch.equal(pixels, image) for image in images.pixels) for pixels in first[0])
    assert not any(torch.equal(first[2][0], image) for image in images.pixels)
    for other in others:
        assert all(torch.equal(one, two) for one, two in zip(first, other, strict=True))


def test_accuracy_of_a_stream_is_that_of_its_batches(model, images):
    predictions = model(images.pixels).logits.argmax(dim=-1)
    own = Images(images.pixels, predictions)
    assert measure_accuracy(model, own) == 1.0
    results = run_stream(model, own, "noise", "read only", 1, 8, limit=1.0, seed=0)
    assert (results["accuracies"], results["clean_accuracy_after"]) == ([1.0], 1.0)
    wrong = Images(images.pixels, (predictions + 1) % 3)
    assert run_stream(model, wrong, "noise", "read only", 1, 8, limit=1.0, seed=0)["accuracies"] == [0.0]


def test_blank_batches_draw_the_slots_together_and_a_limit_holds_them(make_model, images):
    model = make_model(memory_update_rate=0.5).eval()
    model(images.pixels, update_memory=True)
    trained = model.get_memories()
    blank = torch.zeros(4, 3, 8, 12)
    rows = write_batches(model, images, lambda: blank, 20, [0, 1, 20], trained)
    assert [row["step"] for row in rows] == [0, 1, 20]
    assert rows[0]["distance"] == rows[0]["last_movement"] == 0
    assert rows[1]["distance"] == rows[1]["last_movement"] > 0
    assert rows[0]["spread"] == pytest.approx(measure_spread(trained))
    assert rows[2]["spread"] < 0.05 * rows[0]["spread"]
    assert rows[2]["last_movement"] < 0.05 * rows[1]["last_movement"]
    # Each of these writes is within the limit, all of them together are not.
    slow = make_model(memory_update_rate=0.02).eval()
    slow.set_memories(trained)
    (once,) = write_batches(slow, images, lambda: blank, 1, [1], trained)
    limit = 2.5 * once["distance"]
    distances = {}
    for guard in (None, limit):
        slow.set_memories(trained)
        distances[guard] = write_batches(slow, images, lambda: blank, 20, [20], trained, guard)[0]["distance"]
    assert once["distance"] < distances[limit] <= limit < distances[None]
