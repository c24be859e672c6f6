"""The page of ``linf-compare report --html``: one file with tables, figures and images, and nothing from a network."""
