"""The exact tokens sent to a model: text and token lists in, token lists out. Pure but for loading a tokenizer."""
