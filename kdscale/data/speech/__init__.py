"""Spoken words as frames: what a recogniser of the kind of Hinton, Vinyals & Dean 2015, section 4, is trained on and asked for."""
