"""Divergence-aware sampling: sentence probabilities, provenance classes, selection."""
