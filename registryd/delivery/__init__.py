"""Delivers notifications: `dispatcher` leases lanes, `lane` works one, `push` is one signed POST, `receiver` its other end."""
