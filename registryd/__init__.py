"""registryd: the operator-side subscriber registry daemon. README.md beside this file is the code map, in reading order."""
