"""The figures of the page, one a file: `(rows) -> Section | None`, plain dictionaries for plotly.js."""
