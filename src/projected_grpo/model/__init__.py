"""The language model: loaded, adapted, sampled, its log-probs taken."""
