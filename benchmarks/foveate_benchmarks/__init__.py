"""What produced every number in the documents; a room for each question."""
