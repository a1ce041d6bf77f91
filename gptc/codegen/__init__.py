"""How a scheduled and planned graph becomes source."""
