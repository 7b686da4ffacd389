"""`python -m opskpi` is `opskpi`."""

from opskpi.cli import main

if __name__ == "__main__":
    main()
