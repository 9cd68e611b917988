"""How fast training samples are fetched, on the processor alone."""

import time

import datasets
import torch
from torch.utils.data import DataLoader, RandomSampler
from transformers import ViTImageProcessorPil

from examples.data.arguments import DataArguments
from examples.data.images import collate_batch, make_datasets
from examples.data.loading import load_image_data


BATCH_SIZE = 128


def time_fetching(arguments: DataArguments, image_size: int, num_images: int) -> dict[str, float]:
    """
    Fetch training samples as a training without workers does, and count.

    Args:
        arguments: The data, their augmentation and whether decoded images are held.
        image_size: Height and width that the model takes.
        num_images: How many to fetch; the epochs are shuffled.

    Returns:
        Images per CPU second, and the seconds of wall time that the data set took to be ready.
    """
    datasets.disable_progress_bars()
    data = load_image_data(arguments)
    processor = ViTImageProcessorPil(size={"height": image_size, "width": image_size})
    start = time.perf_counter()
    training, _ = make_datasets(data, arguments, processor, seed=0)
    ready = time.perf_counter() - start
    sampler = RandomSampler(training, num_samples=num_images, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(training, BATCH_SIZE, sampler=sampler, collate_fn=collate_batch)
    # The first batch pays for what is set up once.
    next(iter(loader))
    start = time.process_time()
    count = sum(len(batch["labels"]) for batch in loader)
    return {"images_per_cpu_second": count / (time.process_time() - start), "seconds_until_ready": ready}
