"""Delivers notifications: `dispatcher` leases lanes, `lane` works one lane, `push` makes one signed POST."""
