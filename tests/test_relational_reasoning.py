"""The model that answers questions about images: inputs, gradients, saving and loading, refusals."""

import pytest
import torch
from transformers import AutoModel, AutoModelForVisualQuestionAnswering

from modeling_ait import AiTForImageClassification, AiTForRelationalReasoning, AiTModel


@pytest.fixture
def model(make_model):
    return make_model(AiTForRelationalReasoning, question_size=5)


@pytest.fixture
def inputs(make_images):
    return {"pixel_values": make_images(), "question": torch.randn(4, 5)}


def test_every_parameter_gets_a_gradient_and_the_memory_is_written(model, inputs):
    before = [memory.clone() for memory in model.ait.memories]
    outputs = model.train()(**inputs, labels=torch.tensor([0, 1, 2, 1]), output_workspace=True)
    outputs.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    assert not any(torch.equal(new, old) for new, old in zip(model.ait.memories, before))
    # Six patches and, first, the question.
    assert outputs.retrieval_attentions[0].shape == (4, 7, 3)
    task_loss = torch.nn.functional.cross_entropy(outputs.logits, torch.tensor([0, 1, 2, 1]))
    torch.testing.assert_close(outputs.loss, task_loss + 0.01 * outputs.balance_loss)


def test_answer_depends_on_the_question_and_on_no_other_sample(model, inputs):
    model.eval()
    with torch.no_grad():
        together = model(**inputs).logits
        alone = torch.cat([model(**{name: t[i : i + 1] for name, t in inputs.items()}).logits for i in range(4)])
        other = model(inputs["pixel_values"], inputs["question"].flip(0)).logits
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)
    assert not torch.allclose(other, together, atol=1e-3)


def test_saved_model_opens_with_the_auto_classes(model, inputs, tmp_path):
    model.train()(**inputs)
    model.eval().save_pretrained(tmp_path)
    loaded = AutoModelForVisualQuestionAnswering.from_pretrained(tmp_path)
    base = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is AiTForRelationalReasoning
    assert type(base) is AiTModel
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)
        torch.testing.assert_close(base(**inputs).pooler_output, model.ait(**inputs).pooler_output)


def test_model_without_question_size_is_refused(make_config):
    with pytest.raises(ValueError, match="question_size"):
        AiTForRelationalReasoning(make_config())


def test_missing_unexpected_and_misshapen_questions_are_refused(model, make_model, inputs):
    with pytest.raises(ValueError, match=r"needs `question`.*\(batch_size, 5\)"):
        model(inputs["pixel_values"])
    with pytest.raises(ValueError, match=r"\(batch_size, 5\).*\(4, 6\)"):
        model(inputs["pixel_values"], torch.zeros(4, 6))
    plain = make_model(AiTForImageClassification)
    with pytest.raises(ValueError, match="configured without a question"):
        plain.ait(**inputs)
