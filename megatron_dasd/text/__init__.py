"""Text and its tokens: chat templates, encoding, bytes."""
