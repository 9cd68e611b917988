"""transformers' own common tests, run on AiT: `python -m tests.conformance` (or `make conformance`).

The tests are those that every model of the library has to pass. They are not installed with it; its source archive on
the package index carries them. The runner fetches the archive of the installed version and leaves the files as they
are. It exits with

- 0 when all tests pass,
- 1 when one fails, or is skipped for a reason that `skips.py` does not explain,
- 75 when the index cannot be reached and the tests were not fetched before.

Further arguments go to pytest, for instance `-k save_load`.
"""
