"""What people look at, as data: one module a view, each with its shapes and a function that reads it from the database.

The console, `registryd status` and `GET /operator/v1/…` are made from them. Numbers and codes are masked as in schema report.
"""
