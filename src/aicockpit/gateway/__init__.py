"""HTTP in, HTTP out. Start at `app.py`; a completion walks auth -> openai -> routing -> forward."""
