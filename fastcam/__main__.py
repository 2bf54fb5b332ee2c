"""`python -m fastcam`, the same as the command `fastcam`."""

from .cli import app

if __name__ == "__main__":
    app(prog_name="fastcam")
