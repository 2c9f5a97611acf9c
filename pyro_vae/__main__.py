"""`python -m pyro_vae` is `pyro-vae`."""

from pyro_vae.cli.main import main

if __name__ == "__main__":
    main()
