"""``python -m onnx_export`` does the same as ``linf-export``."""

import sys

from .cli import main

sys.exit(main())
