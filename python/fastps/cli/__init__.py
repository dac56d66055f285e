"""The command ``fastps`` and its subcommands."""
