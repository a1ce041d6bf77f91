"""`python -m gptc`."""

from gptc.cli import main

if __name__ == "__main__":
    main()
