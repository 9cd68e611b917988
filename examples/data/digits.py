"""scikit-learn's handwritten digits, which need no download."""

import datasets
import numpy as np
from PIL import Image


def load_digits() -> datasets.DatasetDict:
    """Build scikit-learn's 1,797 handwritten digits (8 x 8 pixels), one fifth held out, the same for every seed."""
    from sklearn.datasets import load_digits as load_sklearn_digits

    digits = load_sklearn_digits()
    images = (digits.images * (255 / 16)).round().astype(np.uint8)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(digit) for digit in range(10)])}
    )
    data = datasets.Dataset.from_dict(
        {"image": [Image.fromarray(image) for image in images], "label": digits.target.tolist()}, features=features
    )
    return data.train_test_split(test_size=0.2, seed=0, stratify_by_column="label")
