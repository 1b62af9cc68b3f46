"""Models as mlx-lm has them: names of weights, and what it reads of `config.json`."""
