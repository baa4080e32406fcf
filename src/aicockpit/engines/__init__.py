"""Running engines and reaching any engine by URL: `supervisor.py` starts here, docs/engines.md explains it."""
