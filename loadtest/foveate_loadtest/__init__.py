"""Open-loop load for a Foveate server: seeded arrivals, honest latencies, one verdict report.

Locust is imported only inside the process that sends (``locustfile.py``), so importing this package
patches nothing.
"""
