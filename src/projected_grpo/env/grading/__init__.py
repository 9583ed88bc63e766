"""From the text of a completion to its grade."""
