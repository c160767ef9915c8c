"""The demo model: its images, its training and its evaluation."""
