"""Answers presence queries: `resolver` groups concurrent ones into statements, `quota` guards against enumeration."""
