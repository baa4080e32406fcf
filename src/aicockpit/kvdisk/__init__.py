"""KV blocks of an engine kept on disk: an out-of-tree connector that vLLM imports; nothing of ours is imported here."""
