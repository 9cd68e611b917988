"""Odd calls of every model: each is computed or refused in one line, and what is refused changes no memory."""

import numpy as np
import pytest
import torch

from modeling_ait import AiTForImageClassification, AiTForRelationalReasoning, AiTModel


IMAGES = torch.zeros(2, 3, 8, 12)
LABELS = torch.tensor([0, 2])
QUESTION = torch.zeros(2, 5)

ODD_IMAGES = {
    "none": None,
    "list": [[0.0]],
    "array": np.zeros((2, 3, 8, 12)),
    "string": "image.png",
    "number": 1.5,
    "dictionary": {"pixel_values": IMAGES},
    "boolean": IMAGES.bool(),
    "complex": IMAGES.to(torch.complex64),
    "sparse": IMAGES.to_sparse(),
    "quantized": torch.quantize_per_tensor(IMAGES, 0.1, 0, torch.quint8),
    "nested": torch.nested.nested_tensor([IMAGES[0], IMAGES[1]], layout=torch.jagged),
    "of another device": IMAGES.to("meta"),
    "scalar": torch.zeros(()),
    "vector": torch.zeros(2),
    "single image": IMAGES[0],
    "five dimensions": IMAGES[None],
    "empty batch": IMAGES[:0],
    "no channel": IMAGES[:, :0],
    "grey": IMAGES[:, :1],
    "no pixel": IMAGES[..., :0],
    "transposed": IMAGES.transpose(2, 3),
    "other size": torch.zeros(2, 3, 9, 13),
}
ODD_LABELS = {
    "list": [0, 1],
    "array": np.array([0, 1]),
    "string": "cat",
    "number": 1,
    "scalar": torch.tensor(1),
    "empty": torch.tensor([], dtype=torch.long),
    "too few": LABELS[:1],
    "too many": torch.tensor([0, 1, 2]),
    "too large": torch.tensor([0, 3]),
    "negative": torch.tensor([0, -1]),
    "huge": torch.tensor([0, 2**62]),
    "unsigned": torch.tensor([0, 200], dtype=torch.uint8),
    "unsigned, 16 bits": torch.tensor([0, 200], dtype=torch.uint16),
    "unsigned, 64 bits": torch.tensor([0, 200], dtype=torch.uint64),
    "boolean": torch.tensor([True, False]),
    "complex": torch.zeros(2, dtype=torch.complex64),
    "sparse": LABELS.to_sparse(),
    "without values": LABELS.to("meta"),
    "integer rows": torch.zeros(2, 3, dtype=torch.long),
    "one float each": torch.rand(2),
    "rows of another width": torch.rand(2, 4),
    "three dimensions": torch.rand(2, 3, 1),
    "NaN": torch.full((2, 3), float("nan")),
    "infinite": torch.full((2, 3), float("inf")),
    "8 bits": torch.zeros(2, 3, dtype=torch.float8_e4m3fn),
}
ODD_QUESTIONS = {
    "none": None,
    "string": "is it red?",
    "list": [[0.0] * 5] * 2,
    "array": np.zeros((2, 5)),
    "boolean": QUESTION.bool(),
    "complex": QUESTION.to(torch.complex64),
    "sparse": QUESTION.to_sparse(),
    "of another device": QUESTION.to("meta"),
    "scalar": torch.zeros(()),
    "vector": QUESTION[0],
    "too few": QUESTION[:1],
    "empty": QUESTION[:0],
    "narrow": QUESTION[:, :4],
    "four dimensions": torch.zeros(2, 1, 1, 5),
}
ODD_FLAGS = {
    "update_memory": ("no", 2, [], torch.tensor(True)),
    "interpolate_pos_encoding": ("yes", 1, torch.tensor(True)),
    "attention_mask": (torch.ones(2, 6),),
    "num_items_in_batch": ("two", 0, -1, torch.ones(2)),
    "ignore_index": ("x", None, 1.5),
    **dict.fromkeys(("config", "dropout", "hidden_states", "memory", "num_questions", "pooled_logits"), (1,)),
    "scaling": (2.0,),
}


def list_calls():
    """Name, class of model, fields of its configuration, arguments."""
    for name, images in ODD_IMAGES.items():
        for model_class in (AiTModel, AiTForImageClassification):
            yield f"{model_class.__name__} of images: {name}", model_class, {}, (images,), {}
        yield f"labels of images: {name}", AiTForImageClassification, {}, (images, LABELS), {}
        yield f"interpolated images: {name}", AiTModel, {}, (images,), {"interpolate_pos_encoding": True}
        yield f"images in bfloat16: {name}", AiTModel, {"dtype": "bfloat16"}, (images,), {}
        yield f"stem: {name}", AiTModel, {"stem_strides": [2, 2]}, (images,), {}
    for name, labels in ODD_LABELS.items():
        for problem_type in (None, "single_label_classification", "multi_label_classification", "regression"):
            fields = {"problem_type": problem_type}
            yield f"{problem_type}: {name}", AiTForImageClassification, fields, (IMAGES, labels), {}
        for num_labels in (0, 1):
            fields = {"num_labels": num_labels}
            yield f"{num_labels} labels: {name}", AiTForImageClassification, fields, (IMAGES, labels), {}
    for name, question in ODD_QUESTIONS.items():
        fields = {"question_size": 5}
        yield f"question: {name}", AiTForRelationalReasoning, fields, (IMAGES, question, LABELS), {}
        yield f"needless question: {name}", AiTForImageClassification, {}, (IMAGES,), {"question": question}
        yield f"question to the encoder: {name}", AiTModel, fields, (IMAGES, question), {}
    for name, values in ODD_FLAGS.items():
        for value in values:
            yield f"{name}={value!r}", AiTForImageClassification, {}, (IMAGES, LABELS), {name: value}


CALLS = list(list_calls())
# What is none of the odd calls' fault: it is computed.
COMPUTED = {
    "interpolated images: transposed",
    "1 labels: one float each",
    "needless question: none",
}


def test_table_of_odd_calls_is_long():
    assert len(CALLS) > 300
    assert len({name for name, *_ in CALLS}) == len(CALLS)


def test_odd_calls_are_refused_in_one_line_and_change_no_memory(make_config):
    models = {}
    wrong = []
    for name, model_class, fields, arguments, options in CALLS:
        key = (model_class, str(fields))
        if key not in models:
            models[key] = model_class(make_config(**fields)).train()
            models[key].to(getattr(torch, fields.get("dtype", "float32")))
        model = models[key]
        model.config.problem_type = fields.get("problem_type")
        before = {key: value.clone() for key, value in model.state_dict().items()}
        try:
            model(*arguments, **{"update_memory": True, **options})
        except (ValueError, TypeError) as error:
            if "\n" in str(error) or len(str(error)) < 20:
                wrong.append(f"{name}: {error}")
            if any(not torch.equal(value, before[key]) for key, value in model.state_dict().items()):
                wrong.append(f"{name}: refused, but written")
            if model.config.problem_type != fields.get("problem_type"):
                wrong.append(f"{name}: refused, but its labels decided `problem_type` {model.config.problem_type}")
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}")
        else:
            if not all(value.isfinite().all() for value in model.base_model.memories):
                wrong.append(f"{name}: the memories are not finite")
            if name not in COMPUTED:
                wrong.append(f"{name}: computed")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_values_that_are_not_finite_write_no_memory(make_model, value):
    model = make_model().train()
    before = [memory.clone() for memory in model.ait.memories]
    model(torch.full((2, 3, 8, 12), value), LABELS)
    assert all(memory.isfinite().all() for memory in model.ait.memories)
    if value != 1e38:
        assert all(torch.equal(now, old) for now, old in zip(model.ait.memories, before))


def test_refusals_say_what_was_given_and_allowed(make_model):
    model = make_model().train()
    for arguments, message in (
        ({"pixel_values": IMAGES.to_sparse()}, "must be a dense tensor, but got a torch.sparse_coo one"),
        ({"pixel_values": IMAGES, "update_memory": "no"}, "`update_memory` must be True, False or None, but got 'no'"),
        ({"pixel_values": IMAGES, "update_memories": True}, "There is no `update_memories`: write `update_memory`"),
        ({"pixel_values": IMAGES, "output_workspaces": True}, "no `output_workspaces`: write `output_workspace`"),
        ({"pixel_values": IMAGES, "question": QUESTION}, "configured without a question"),
        ({"pixel_values": IMAGES, "attention_mask": torch.ones(2, 6)}, "leave `attention_mask` out"),
        ({"pixel_values": [IMAGES], "labels": LABELS}, "`pixel_values` must be a tensor, but got list"),
        ({"pixel_values": IMAGES, "labels": torch.full((2, 3), torch.nan)}, "must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**arguments)
