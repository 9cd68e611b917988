"""Accuracy, over all samples and over groups of questions."""

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np
from transformers import EvalPrediction

from examples.data.questions import QuestionsDataset, group_questions
from examples.data.sort_of_clevr import NUM_OBJECTS


class Accuracy(evaluate.Metric):
    """Share of predictions that equal the reference. A class of ours, because `evaluate.load` needs a network."""

    def _info(self):
        return evaluate.MetricInfo(
            description="Share of predictions that equal the reference.",
            citation="",
            inputs_description="predictions and references: class indices",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references):
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy of the logits."""
    return Accuracy().compute(predictions=np.argmax(prediction.predictions, axis=-1), references=prediction.label_ids)


def answer_from_questions_alone(train_data: QuestionsDataset, eval_data: QuestionsDataset) -> np.ndarray:
    """
    Give the answer most frequent in training for a question's type and subtype, (num_questions,).

    The colours are left out: the answers do not depend on them, and counting them apart would fit noise.
    """
    counts: dict[bytes, Counter] = defaultdict(Counter)
    for bits, answer in zip(train_data.bits[:, 2 * NUM_OBJECTS :], train_data.answers.tolist()):
        counts[bits.tobytes()][answer] += 1
    most_frequent = {key: counter.most_common(1)[0][0] for key, counter in counts.items()}
    return np.array([most_frequent.get(bits.tobytes(), -1) for bits in eval_data.bits[:, 2 * NUM_OBJECTS :]])


def score_groups(predictions: np.ndarray, data: QuestionsDataset) -> dict[str, float]:
    """Accuracy of predictions (num_questions,) in each group of questions."""
    is_right = predictions == data.answers
    return {name: float(is_right[mask].mean()) for name, mask in group_questions(data.bits).items()}


def make_metrics(data: QuestionsDataset) -> Callable[[EvalPrediction], dict[str, Any]]:
    """Return the function that the Trainer calls with the predictions for all questions, in their order."""

    def compute(prediction: EvalPrediction) -> dict[str, Any]:
        predictions = np.argmax(prediction.predictions, axis=-1).reshape(-1)
        labels = np.reshape(prediction.label_ids, -1)
        assert np.array_equal(labels, data.answers), "the questions came in another order"
        accuracy = Accuracy().compute(predictions=predictions, references=labels)
        return {**accuracy, "accuracy_by_group": score_groups(predictions, data)}

    return compute
