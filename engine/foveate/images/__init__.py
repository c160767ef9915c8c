"""Images and their labels: decoding, preprocessing, folders, the digits of the demo."""
