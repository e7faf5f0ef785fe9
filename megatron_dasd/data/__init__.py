"""Training data: indexed datasets with aligned loss masks, packing, packed rows."""
