"""Entry point of ``python -m rcdm_cli``, the same program as ``rcdm``."""

from rcdm_cli.cli.app import main

main()
