"""The HTML page of a report: its parts, and what fills them."""
