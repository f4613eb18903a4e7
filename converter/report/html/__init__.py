"""``report.html``: the report as one page for a browser."""
