"""The flaws that a grader may have, and what exploits them."""
