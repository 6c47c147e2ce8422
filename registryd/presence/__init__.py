"""Answers presence queries: `answerer` groups them into statements, `queue` keeps their turns, `quota` guards against enumeration."""
