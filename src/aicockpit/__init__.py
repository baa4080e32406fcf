"""AiCockpit: a thin layer over stock vLLM that keeps a code assistant warm.

Where things live (a module may import only what stands below its own line):

    cli, console     commands, and what they print
    gateway          HTTP in, HTTP out: keys, routes, routing, forwarding, metrics
    engines          running `vllm serve` children; reaching any engine by URL
    models           model files on disk
    recipes          the command line that starts an engine; the fleet file
    hardware         what machine is this
    settings, log    the one table of settings; logging with the request's id
    errors, types    the error tree and the values that several packages speak

Three walks to follow: a completion (gateway/app.py), a start (cli.py serve), a stop (engines/process.py).
"""

__version__ = "0.1.0"
