"""`python -m rnnkernels`: info, check and demo."""

import sys

from .cli import main

sys.exit(main())
