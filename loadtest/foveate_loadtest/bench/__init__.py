"""``foveate bench serve``: every way to choose levels, on the same arrivals, on the real server."""
