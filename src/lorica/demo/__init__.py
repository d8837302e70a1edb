"""The embedded base model, and the small task that `lorica demo` teaches it."""

from lorica.demo.run import fresh_folder, write_demo_run
from lorica.demo.settings import BASE
from lorica.demo.task import write_demo_data

__all__ = ["BASE", "fresh_folder", "write_demo_data", "write_demo_run"]
