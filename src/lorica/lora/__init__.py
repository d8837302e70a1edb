"""What an adapter is: its layers, where they attach, how they start, and how they are saved and merged."""

from lorica.lora.activations import Tokens
from lorica.lora.adapter import Adapter
from lorica.lora.attach import attach
from lorica.lora.checkpoint import load_adapter
from lorica.lora.lane import Lane
from lorica.lora.merge import MergeReport

__all__ = ["Adapter", "Lane", "MergeReport", "Tokens", "attach", "load_adapter"]
