"""A search for stock operators that auto_LiRPA bounds wrongly, around our layers and without them."""
