"""Which way to run a model: the fleet asked for, and the exact command of each engine."""
