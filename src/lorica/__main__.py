"""`python -m lorica` is the `lorica` program."""

from lorica.cli import main

if __name__ == "__main__":
    main()
