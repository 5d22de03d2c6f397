"""The figures of the page, one a file, each a function `(rows) -> Section | None` of plain dictionaries for plotly.js."""
