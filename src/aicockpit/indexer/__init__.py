"""A save on disk becomes a push to the gateway; runs beside the server or on a laptop, over HTTP only."""
