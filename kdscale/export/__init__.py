"""Finished models as files that are served: raw samples in, logits out, with all that is needed to make sense of both."""
