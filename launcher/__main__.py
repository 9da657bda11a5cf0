"""`python -m launcher`: the kdscale command where its script is not on the PATH, as in a job of Ray."""

from launcher.cli import main

main()
