"""Generalist and specialists (Hinton, Vinyals & Dean 2015, section 5): clusters, dustbin, joint inference."""
