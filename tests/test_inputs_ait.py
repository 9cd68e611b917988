"""What forward refuses, in one line and before the memory changes, and which labels the loss takes."""

import pytest
import torch

from modeling_ait import AiTForRelationalReasoning


def refuse(model, message, *args, **kwargs):
    """Check that a training forward raises a one-line `ValueError` and leaves every memory as it was."""
    before = [memory.clone() for memory in model.ait.memories]
    with pytest.raises(ValueError, match=message) as caught:
        model.train()(*args, **kwargs)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(now, old) for now, old in zip(model.ait.memories, before, strict=True))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 3, 1, 0]), r"from 0 to 2 \(`num_labels` is 3\), but got 3"),
        (torch.tensor([0, -1, 1, 0]), "from 0 to 2.*but got -1"),
        (torch.tensor([0, 1]), r"one integer for each of the 4 images, but got torch.int64 of shape \(2,\)"),
        (torch.tensor(1), "one integer for each"),
        (torch.ones(4, dtype=torch.bool), "integers or real numbers, but got torch.bool"),
        (torch.ones(4, dtype=torch.complex64), "integers or real numbers"),
        (torch.rand(4), r"must have the shape \(4, 3\) with `problem_type` 'multi_label_classification'"),
        (torch.rand(4, 2), r"must have the shape \(4, 3\)"),
        ([0, 1, 2, 0], "must be a tensor, but got list"),
    ],
)
def test_labels_that_do_not_fit_are_refused(make_model, make_images, labels, message):
    refuse(make_model(), message, make_images(), labels=labels)


@pytest.mark.parametrize(
    ("problem_type", "labels", "message"),
    [
        ("multi_label_classification", torch.ones(4, 3, dtype=torch.long), "must be floating-point"),
        ("multi_label_classification", torch.tensor([0, 1, 2, 0]), r"must have the shape \(4, 3\)"),
        ("single_label_classification", torch.rand(4), r"4 integers, or probabilities of shape \(4, 3\)"),
        ("regression", torch.rand(4, 2), r"must have the shape \(4, 3\) with `problem_type` 'regression'"),
    ],
)
def test_labels_that_contradict_the_problem_type_are_refused(make_model, make_images, problem_type, labels, message):
    refuse(make_model(problem_type=problem_type), message, make_images(), labels=labels)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_integer_labels_of_any_width_give_the_same_loss(make_model, make_images, dtype):
    model, labels = make_model().eval(), torch.tensor([0, 1, 2, 1])
    losses = [model(make_images(), labels=each).loss for each in (labels, labels.to(dtype), labels[:, None])]
    assert losses[0] == losses[1] == losses[2]
    assert model.config.problem_type == "single_label_classification"


def test_refused_labels_do_not_decide_the_problem_type(make_model, make_images):
    model, labels = make_model(), torch.tensor([0, 1, 2, 1])
    refuse(model, r"must have the shape \(4, 3\)", make_images(), labels=torch.rand(4))
    refuse(model, "pixels", make_images()[..., :4], labels=labels)
    assert model.config.problem_type is None
    assert model(make_images(), labels=labels).loss.isfinite()
    assert model.config.problem_type == "single_label_classification"


def test_ignored_labels_are_left_out_of_the_loss(make_model, make_images):
    model = make_model().eval()
    outputs = model(make_images(), labels=torch.tensor([0, -100, 2, -100]))
    expected = torch.nn.functional.cross_entropy(outputs.logits[[0, 2]], torch.tensor([0, 2]))
    torch.testing.assert_close(outputs.loss, expected)


@pytest.mark.parametrize("problem_type", [None, "single_label_classification"])
def test_probabilities_as_labels_give_the_cross_entropy(make_model, make_images, problem_type):
    """As mixup and cutmix make them; integers are the special case of one class."""
    model = make_model(problem_type=problem_type).eval()
    targets = torch.rand(4, 3).softmax(dim=-1)
    outputs = model(make_images(), labels=targets)
    torch.testing.assert_close(outputs.loss, -(targets * outputs.logits.log_softmax(dim=-1)).sum(dim=-1).mean())
    labels = torch.tensor([0, 1, 2, 1])
    one_hot = torch.nn.functional.one_hot(labels, 3).float()
    torch.testing.assert_close(model(make_images(), labels=one_hot).loss, model(make_images(), labels=labels).loss)


def test_independent_targets_give_the_binary_cross_entropy(make_model, make_images):
    targets = torch.tensor([[1.0, 1, 0], [0, 0, 0], [0, 1, 1], [1, 0, 0]])
    for problem_type in (None, "multi_label_classification"):
        outputs = make_model(problem_type=problem_type).eval()(make_images(), labels=targets)
        expected = torch.nn.functional.binary_cross_entropy_with_logits(outputs.logits, targets)
        torch.testing.assert_close(outputs.loss, expected)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "specify `pixel_values`"),
        ([[0.0]], "`pixel_values` must be a tensor, but got list"),
        (
            torch.zeros(2, 3, 8, 12, dtype=torch.complex64),
            "must hold integers or real numbers, but got torch.complex64",
        ),
        (torch.zeros(2, 3, 8, 12, dtype=torch.bool), "must hold integers or real numbers, but got torch.bool"),
        (torch.zeros(2, 3, 8, 12, device="meta"), "is on meta, but the model on cpu"),
        (torch.zeros(0, 3, 8, 12), r"`pixel_values` of shape \(0, 3, 8, 12\) holds no image"),
        (torch.zeros(()), "holds no image"),
    ],
)
def test_images_that_no_model_takes_are_refused(make_model, images, message):
    refuse(make_model(), message, images)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (torch.zeros(3, 5), "There are 4 images, but 3 questions"),
        (torch.zeros(4, 6), r"must have the shape \(batch_size, 5\)"),
        ("what?", "`question` must be a tensor, but got str"),
        (torch.zeros(4, 5, dtype=torch.complex64), "`question` must hold integers or real numbers"),
        (None, "needs `question`"),
    ],
)
def test_questions_that_do_not_fit_are_refused(make_model, make_images, question, message):
    refuse(make_model(AiTForRelationalReasoning, question_size=5), message, make_images(), question)


def test_integer_questions_and_images_are_taken_as_numbers(make_model, make_images):
    model = make_model(AiTForRelationalReasoning, question_size=5).eval().bfloat16()
    bits = torch.tensor([[1, 0, 0, 1, 0]] * 4)
    with torch.no_grad():
        assert torch.equal(model(make_images(), bits).logits, model(make_images(), bits.float()).logits)


@pytest.mark.parametrize("targets", [torch.tensor([0.5, -1.0, 2.0, 0.0]), torch.tensor([[0.5], [-1.0], [2.0], [0.0]])])
def test_one_output_is_a_regression(make_model, make_images, targets):
    model = make_model(num_labels=1).eval()
    outputs = model(make_images(), labels=targets)
    expected = (outputs.logits.flatten() - targets.flatten()).square().mean()
    torch.testing.assert_close(outputs.loss, expected)
    assert model.config.problem_type == "regression"


def test_labels_for_a_model_without_classes_are_refused(make_model, make_images):
    refuse(make_model(num_labels=0), r"no classes \(`num_labels` is 0\)", make_images(), labels=torch.zeros(4).long())
