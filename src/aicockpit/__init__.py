"""AiCockpit: a thin layer over stock vLLM that keeps a code assistant warm.

Where things live (a module may import only what stands below its own line):

    cli, serve, warm commands; the server put together, and its warm side
    gateway          HTTP in, HTTP out: keys, routes, routing, forwarding, joining a workspace, metrics
    indexer          a save on disk becomes a push, over HTTP
    workspace        what the server knows of a source tree: store, epochs, what is warm where, prefetch
    prompts          the exact tokens sent to a model: fill-in-the-middle, skeletons, packs, journal
    engines          running `vllm serve` children; reaching any engine by URL; KV events
    models           model files on disk
    recipes          the command line that starts an engine; the fleet file
    hardware         what machine is this
    settings, log    the one table of settings; logging with the request's id
    errors, types    the error tree and the values that several packages speak

Walks to follow: a completion (gateway/app.py), a save (indexer/agent.py), a start (cli.py serve), a stop
(engines/process.py).
"""

__version__ = "0.1.0"
