"""``python -m onnx_export`` is ``linf-export``."""

import sys

from .cli import main

sys.exit(main())
