"""The ensemble: members that differ only in their seed, and the rules that fuse them."""
