"""The command line: one file per command. A command imports its library inside its function.

`--help` and `status` must answer within 0.3 s, so importing a command file loads neither torch nor Ray.
"""
