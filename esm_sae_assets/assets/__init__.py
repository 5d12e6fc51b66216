"""The assets by group or part of one; each module has a function that builds its own."""
