"""The teacher's responses to whole prompts."""
