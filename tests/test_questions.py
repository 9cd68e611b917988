"""Several questions about an image: joint is a copy of the image for each, independent lets none see another."""

import pytest
import torch

from modeling_ait import AiTConfig, AiTForRelationalReasoning


NUM_QUESTIONS = 7


@pytest.fixture(params=["question", "mean"])
def make_question_model(request, make_model):
    """Factory of models of both poolings."""

    def make(**fields):
        fields = {"question_size": 5, "pooling": request.param, "question_attention": "independent", **fields}
        return make_model(AiTForRelationalReasoning, **fields).eval()

    return make


@pytest.fixture
def inputs(make_images):
    return {"pixel_values": make_images(3), "question": torch.randn(3, NUM_QUESTIONS, 5)}


@pytest.mark.parametrize("pooling", ["mean", "flatten", "cls", "question"])
def test_joint_questions_are_samples_with_a_copy_of_the_image(pooling, make_model, inputs):
    fields = {"question_size": 5, "pooling": pooling, "num_register_tokens": 2}
    together, apart = (make_model(AiTForRelationalReasoning, **fields).train() for _ in range(2))
    labels = torch.randint(0, 3, (3, NUM_QUESTIONS))
    outputs = together(**inputs, labels=labels, output_hidden_states=True)
    expected = apart(
        inputs["pixel_values"].repeat_interleave(NUM_QUESTIONS, dim=0),
        inputs["question"].flatten(0, 1),
        labels.flatten(),
    )
    assert outputs.logits.shape == (3, NUM_QUESTIONS, 3)
    assert outputs.hidden_states[0].shape == (3 * NUM_QUESTIONS, 6 + 1 + 2 + (pooling == "cls"), 16)
    torch.testing.assert_close(outputs.logits.flatten(0, 1), expected.logits)
    torch.testing.assert_close(outputs.loss, expected.loss)
    outputs.loss.backward()
    expected.loss.backward()
    for (name, one), other in zip(together.named_parameters(), apart.parameters()):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)
    for one, other in zip(together.ait.memories, apart.ait.memories):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("update_memory", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_independent_answer_depends_on_no_other_question(
    attention, update_memory, dtype, tolerance, make_question_model, inputs
):
    model = make_question_model(num_register_tokens=1).to(dtype)
    model.set_attn_implementation(attention)
    images, question = (tensor.to(dtype) for tensor in inputs.values())
    start = [memory.clone() for memory in model.ait.memories]

    def answer(images, question):
        for memory, value in zip(model.ait.memories, start):
            memory.copy_(value)
        with torch.no_grad():
            return model(images, question, update_memory=update_memory).logits

    together = answer(images, question)
    alone = torch.cat([answer(images, question[:, [index]]) for index in range(NUM_QUESTIONS)], dim=1)
    flat = torch.stack([answer(images, question[:, index]) for index in range(NUM_QUESTIONS)], dim=1)
    order = torch.randperm(NUM_QUESTIONS)
    for other in (alone, flat, answer(images, question[:, order])[:, order.argsort()]):
        torch.testing.assert_close(other, together, rtol=0, atol=tolerance)
    # They are different questions, and the answers tell.
    assert (together[:, 1:] - together[:, :-1]).abs().min(dim=-1).values.max() > 1e-2


def test_independent_questions_leave_image_tokens_and_memory_as_they_are(make_question_model, inputs):
    models = [make_question_model() for _ in range(2)]
    outputs = [
        model.train()(images, question, output_hidden_states=True, output_workspace=True)
        for model, images, question in zip(
            models, [inputs["pixel_values"]] * 2, [inputs["question"], -inputs["question"][:, :2]]
        )
    ]
    for one, other in zip(*(output.hidden_states for output in outputs)):
        torch.testing.assert_close(one[:, :6], other[:, :6], rtol=0, atol=1e-6)
    for one, other in zip(*(model.ait.memories for model in models)):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert outputs[0].write_attentions[0].shape == (2, 3, 3, 6)
    assert outputs[0].retrieval_attentions[0].shape == (3, 6 + NUM_QUESTIONS, 3)
    assert outputs[0].energies[0].shape == (2, 3, 6 + NUM_QUESTIONS)


def test_independent_attention_is_that_of_a_mask(make_question_model, inputs):
    """The same block by torch's attention over all tokens, where a mask hides what no token may see."""
    model = make_question_model(num_hidden_layers=1)
    model.set_attn_implementation("eager")
    num_tokens = 6 + NUM_QUESTIONS
    attention = model.ait.layers[0].attention
    hidden_states = torch.randn(3, num_tokens, 16)
    found, weights = attention(hidden_states, NUM_QUESTIONS)
    is_seen = torch.eye(num_tokens, dtype=torch.bool)
    is_seen[:, :6] = True
    query, key, value = (
        projection(hidden_states).unflatten(-1, (2, 8)).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=is_seen)
    torch.testing.assert_close(found, attention.o_proj(expected.transpose(1, 2).flatten(2)))
    assert weights.shape == (3, 2, num_tokens, 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, num_tokens))
    assert not weights[:, :, :6, 6].any()
    assert (weights[:, :, 6:] > 0).all()


def test_independent_loss_is_the_mean_over_questions_and_leaves_ignored_ones_out(make_question_model, inputs):
    model = make_question_model()
    labels = torch.randint(0, 3, (3, NUM_QUESTIONS))
    labels[0, 2] = -100
    outputs = model(**inputs, labels=labels)
    expected = torch.nn.functional.cross_entropy(outputs.logits[labels >= 0], labels[labels >= 0])
    torch.testing.assert_close(outputs.loss, expected)
    outputs.loss.backward()
    assert all(
        parameter.grad is not None and parameter.grad.any()
        for name, parameter in model.named_parameters()
        if ".write." not in name
    )


def test_independent_model_answers_jointly_with_the_same_weights(make_question_model, inputs, tmp_path):
    make_question_model().save_pretrained(tmp_path)
    independent, joint = (
        AiTForRelationalReasoning.from_pretrained(tmp_path, **fields)
        for fields in ({}, {"question_attention": "joint"})
    )
    assert independent.config.question_attention == "independent"
    assert joint(**inputs).logits.shape == independent(**inputs).logits.shape == (3, NUM_QUESTIONS, 3)
    # A question alone with its image: only what the image sees of it differs, and in the first layer nothing.
    hidden = [
        model(inputs["pixel_values"], inputs["question"][:, 0], output_hidden_states=True).hidden_states[0]
        for model in (independent, joint)
    ]
    torch.testing.assert_close(hidden[0].roll(1, dims=1), hidden[1])


def test_independent_questions_checkpoint_compile_and_run_in_half_precision(make_model, inputs):
    fields = {"question_size": 5, "pooling": "question", "question_attention": "independent", "num_hidden_layers": 1}
    models = [make_model(AiTForRelationalReasoning, **fields).train() for _ in range(3)]
    models[1].activation_checkpointing_enable()
    compiled = torch.compile(models[2], fullgraph=True, backend="aot_eager")
    labels = torch.randint(0, 3, (3, NUM_QUESTIONS))
    losses = [model(**inputs, labels=labels).loss for model in (models[0], models[1], compiled)]
    for loss, model in zip(losses, models):
        torch.testing.assert_close(loss, losses[0])
        loss.backward()
        for one, other in zip(model.parameters(), models[0].parameters()):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
    full = models[0].eval()(**inputs).logits
    half = models[0].to(torch.bfloat16)(**inputs).logits
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, rtol=0.1, atol=0.1)


def test_misshapen_questions_and_labels_are_refused_before_a_write(make_question_model, make_images):
    model = make_question_model().train()
    before = [memory.clone() for memory in model.ait.memories]
    for question, labels, message in (
        (torch.zeros(3, 0, 5), None, r"one or more for each image, \(batch_size, num_questions, 5\).*\(3, 0, 5\)"),
        (torch.zeros(3, 2, 2, 5), None, r"but got \(3, 2, 2, 5\)"),
        (torch.zeros(3, 2, 4), None, r"but got \(3, 2, 4\)"),
        (torch.zeros(3, 2, 5), torch.zeros(3, dtype=torch.long), r"`labels` must have the shape \(3, 2\)"),
        (torch.zeros(3, 2, 5), torch.zeros(3, 3, dtype=torch.long), r"`labels` must have the shape \(3, 2\)"),
        (torch.zeros(3, 2, 5), torch.full((3, 2), 3), r"`labels` must be from 0 to 2"),
    ):
        with pytest.raises(ValueError, match=message):
            model(make_images(3), question, labels=labels)
    assert all(torch.equal(new, old) for new, old in zip(model.ait.memories, before))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"question_attention": "apart"}, '`question_attention` must be "joint" or "independent", but got \'apart\''),
        ({"question_attention": "independent", "question_size": None}, '"joint" without `question_size`'),
        ({"question_attention": "independent", "pooling": "cls"}, "`pooling` must be .* but got 'cls'"),
        ({"question_attention": "independent", "pooling": "flatten"}, "`pooling` must be .* but got 'flatten'"),
        ({"question_size": None, "pooling": "question"}, "another without `question_size`"),
    ],
)
def test_question_settings_that_cannot_work_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        AiTConfig(**{"question_size": 18, **fields})
