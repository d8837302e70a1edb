"""Lorica: fine-tune language models with low-rank adapters."""
