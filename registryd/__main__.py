"""`python -m registryd`, the same as the command `registryd`."""

from registryd.cli import main

main()
