"""Model files on disk: find them, fetch them, or make them from what a package carries."""
