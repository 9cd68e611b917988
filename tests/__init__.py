"""
The tests of the project.

Set before anything reads it, and for every process that a test starts: no test asks the Hub, whose refused connections
are tried again for seconds, and no data set that another version generated is taken from a cache.
"""

import atexit
import os
import shutil
import tempfile


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="modeling_ait_datasets_")
atexit.register(shutil.rmtree, os.environ["HF_DATASETS_CACHE"], ignore_errors=True)
