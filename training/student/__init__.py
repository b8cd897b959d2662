"""The student φ: its network, what it starts from, and how it is distilled (paper Sec. 3.2)."""
