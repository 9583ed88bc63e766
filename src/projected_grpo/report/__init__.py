"""What runs come to: statistics, tables, figures, one HTML page."""
