"""What was trained, written for others to serve, and the proof that it computes the same."""

from lorica.exporting.proven import ExportResult, export

__all__ = ["ExportResult", "export"]
