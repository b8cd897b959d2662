"""The paper's teacher Φ: its networks, its data and its training (paper Sec. 3.1, 3.3, 3.4)."""
