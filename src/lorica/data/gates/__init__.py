"""Gates: questions asked of every data set before it is trained on. All findings are told at once, with their rows."""

from lorica.data.gates.gate import Gate, RefusedData
from lorica.data.gates.table import GATES, check_gates, judge, refuse

__all__ = ["GATES", "Gate", "RefusedData", "check_gates", "judge", "refuse"]
