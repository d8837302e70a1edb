"""What a run will take, before it is run: the real training step rehearsed without weights, byte by byte."""
