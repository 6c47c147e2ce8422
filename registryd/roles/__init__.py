"""The three roles, each the wiring of one process, the life that they share, and the supervisor that starts all of them."""
