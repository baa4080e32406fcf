"""`aicockpit doctor`: what this machine has, what is wrong with it, what to do. docs/doctor.md explains the rows."""

from __future__ import annotations

from aicockpit.doctor.everything import Report, examine, report
from aicockpit.doctor.finding import Finding, verdict

__all__ = ["Finding", "Report", "examine", "report", "verdict"]
