from support.cli_against_hub import cli, hub  # noqa: F401  (for the commands that download)
from support.without_comfyui import no_comfyui  # noqa: F401  (a fixture for every test here)
