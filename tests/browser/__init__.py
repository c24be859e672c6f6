"""The page of a report in a real browser.  ``make test-browser`` runs it; ``make test`` does not need a browser."""
