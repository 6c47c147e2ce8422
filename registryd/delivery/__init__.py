"""Delivers notifications: `dispatcher` leases lanes, `lane` works one messenger's, `push` is one signed POST, `receiver` the other end of it."""
