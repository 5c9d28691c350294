from support.without_comfyui import no_comfyui  # noqa: F401  (a fixture for every test here)
