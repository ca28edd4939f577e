"""``python -m safa``, and ``torchrun --nproc_per_node 2 -m safa train …``."""

import sys

from safa.cli import main

sys.exit(main())
