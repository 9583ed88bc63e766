"""Treatments of a run: what each measures, removes, pays and leaves out."""
