"""GGUF: the container, and what llama.cpp calls the parts of a model."""
