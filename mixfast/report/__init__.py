"""A page of plots from runs and records: what ``mixfast report`` writes.

``inputs`` reads what is given, a module a plot draws what it can of it, ``page`` makes the HTML and ``writing`` the files.
"""

from mixfast.report.inputs import Inputs, read_inputs
from mixfast.report.plots import Drawn, draw
from mixfast.report.writing import check_folder, write_report

__all__ = ["Drawn", "Inputs", "check_folder", "draw", "read_inputs", "write_report"]
