"""The networks: a small zoo, and the user's own by ``package.module:factory``."""
