"""``python -m offload_rllib``: the command line."""

from offload_rllib.cli import main

main()
