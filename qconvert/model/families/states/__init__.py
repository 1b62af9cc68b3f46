"""Models with layers that keep a state: state spaces and convolutions."""
