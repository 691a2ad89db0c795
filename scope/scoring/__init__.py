"""From text to answers."""
