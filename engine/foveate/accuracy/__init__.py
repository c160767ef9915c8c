"""How accurate the levels of a model are, on images with labels: ``foveate bench accuracy``."""
