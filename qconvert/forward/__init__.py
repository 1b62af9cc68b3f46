"""The model at work: its blocks one at a time over a sample, by transformers' own code."""
