"""PostgreSQL: the only place that knows of asyncpg. One module a family of tables, its statements in sql/queries/ under the same name."""
