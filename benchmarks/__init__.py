"""Side-by-side measurement of gateways; start with `python benchmarks/gateway.py --help`."""
