"""Answers presence queries: `resolver` groups them into statements, `queue` keeps their turns, `quota` guards against enumeration."""
