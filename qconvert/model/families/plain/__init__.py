"""Plain decoders of single makers."""
