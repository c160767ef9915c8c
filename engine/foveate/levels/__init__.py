"""What levels are: the ladder, each level's schedule of counts, measured latencies.

The ladder imports nothing but the standard library."""
