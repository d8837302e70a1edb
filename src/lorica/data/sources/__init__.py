"""Where rows come from: files, folders, patterns, addresses and hub ids, all as a stream of rows with their places."""

from lorica.data.sources.read import read_rows
from lorica.data.sources.row import Row

__all__ = ["Row", "read_rows"]
