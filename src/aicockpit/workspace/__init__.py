"""What the server knows of a source tree: files, epochs, and which of it is warm on which engine."""
