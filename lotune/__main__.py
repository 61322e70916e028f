"""`python -m lotune` is the same as `lotune`."""

from lotune.cli.app import main

if __name__ == "__main__":
    main()
