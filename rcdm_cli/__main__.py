"""``python -m rcdm_cli`` is ``rcdm``."""

from rcdm_cli.cli.app import main

main()
