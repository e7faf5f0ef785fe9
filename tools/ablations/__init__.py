"""Running the arms of the ablation, keeping their results, and the page made from them."""
