"""How far a quantized model is from its original, how fast it is and what it says."""
