"""What the table of goals makes of measured numbers and of the tables that others print."""
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools/bench"))
import goals  # noqa: E402


class Goals(unittest.TestCase):
    def test_numbers_on_both_sides_of_a_goal(self):
        row = goals.goal("attention", "PyTorch's", 1.5, [1.19, 1.5, 3.29])
        self.assertEqual(row, ["attention", "PyTorch's", "≥ 1.5", "1.19–3.29", "2 of 3"])
        self.assertEqual(goals.goal("memory", "", 0.5, [0.23], least=False)[2:], ["≤ 0.5", "0.23", "yes"])
        self.assertEqual(goals.goal("memory", "", 0.5, [0.73], least=False)[4], "no")

    def test_tables_without_their_heads(self):
        text = """2 cores

| matmul | cores | of the peak: best, usual |
|---|---|---|
| m14 up forward | 1 | 93 %, 85 % |
| m14 up dx | 2 |  |
"""
        rows = goals.cells(text)
        self.assertEqual([row[0] for row in rows], ["m14 up forward", "m14 up dx"])
        self.assertEqual([goals.shares(row[2]) for row in rows], [[93, 85], []])


if __name__ == "__main__":
    unittest.main()
