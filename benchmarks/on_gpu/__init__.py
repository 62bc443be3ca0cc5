"""The parts of `benchmarks/gpu.py`: inputs, training, and what is measured."""
