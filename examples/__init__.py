"""Scripts that train, measure and share AiT. Not part of the installed package."""

import logging


# Where torchao is installed, every import of transformers' models says on stderr which of its kernels it cannot load.
for name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(name).setLevel(logging.ERROR)
