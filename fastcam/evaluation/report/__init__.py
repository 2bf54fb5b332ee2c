"""The report of a run: one HTML page, with CSV and LaTeX beside it."""

from fastcam.evaluation.report.page import write_report

__all__ = ["write_report"]
