"""`python -m tierpool`."""

from tierpool.cli import entry

if __name__ == "__main__":
    entry()
