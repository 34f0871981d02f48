"""Entry points of Ray jobs: the same verbs, options and exit codes as the console script."""
