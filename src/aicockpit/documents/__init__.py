"""Documentation that chats may cite: read from a site, a folder or an archive, cut into pieces, searched."""
