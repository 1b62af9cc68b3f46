"""The picture of the trade-off: which quantization of a model to take, and why."""
