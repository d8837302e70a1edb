"""The formats that rows come in, told apart by their fields, and the records that they become."""

from lorica.data.formats.read import Records
from lorica.data.formats.records import Completion, Judged, Preference, Record, Text, Tokens

__all__ = ["Completion", "Judged", "Preference", "Record", "Records", "Text", "Tokens"]
