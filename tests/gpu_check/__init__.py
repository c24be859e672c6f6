"""All that has to do with a GPU, checked in ten minutes by one command: ``python -m gpu_check``."""
