"""The arithmetic of the benchmarks: a report that says "met" must be right about it."""

import io
import unittest
from contextlib import redirect_stderr
from pathlib import Path

from runner.records import Ask, Case, goal_terms, is_met, ratio, record
from runner.rounds import measure
from runner.setting import Setting
from runner.table import figure, table
from runner.worker import WorkerError

GET = Ask("w", "get")
CALL = Ask("w", "call")


class Scripted:
    """Answers from lists, and keeps the order of the questions."""

    def __init__(self, **answers):
        self.answers = {name: list(values) for name, values in answers.items()}
        self.asked = []

    def ask(self, measurement):
        self.asked.append(measurement)
        answer = self.answers[measurement].pop(0)
        if isinstance(answer, str):
            raise WorkerError(answer)
        return answer


class Ratio(unittest.TestCase):
    def test_half_the_time_is_twice_as_good(self):
        self.assertEqual(ratio(20, 40, "lower"), 2)

    def test_twice_the_rate_is_twice_as_good(self):
        self.assertEqual(ratio(40, 20, "higher"), 2)

    def test_as_good_as_the_ceiling_is_one(self):
        self.assertEqual(ratio(7, 7, "lower"), 1)

    def test_no_time_at_all_is_no_division_by_zero(self):
        self.assertEqual(ratio(0, 7, "lower"), float("inf"))


class Goal(unittest.TestCase):
    def test_each_term_must_hold(self):
        goal = "value <= 60 and ratio >= 500"
        self.assertTrue(is_met(goal, 60, 500))
        self.assertFalse(is_met(goal, 61, 900))
        self.assertFalse(is_met(goal, 10, 499.9))

    def test_without_a_goal_nothing_is_met_or_missed(self):
        self.assertIsNone(is_met("", 1, 1))

    def test_a_ratio_that_was_not_measured_is_missed(self):
        self.assertFalse(is_met("ratio >= 1", 1, None))

    def test_what_is_no_goal_is_refused(self):
        for goal in ("value < 60", "faster", "value <= 60 or ratio >= 1", "value <= 60us"):
            with self.subTest(goal), self.assertRaises(ValueError):
                goal_terms(goal)

    def test_a_case_refuses_it_when_it_is_written_down(self):
        with self.assertRaises(ValueError):
            Case("c", "ns", GET, goal="value about 60")


class Record(unittest.TestCase):
    def test_medians_and_the_median_of_the_ratios(self):
        # Round 2 was disturbed as a whole: its ratio is as good as the others'.
        case = Case("c", "ns", GET, CALL, "ns of a call", "ratio >= 100")
        made = record("s", case, [10, 100, 12], [1000, 10000, 1320])
        self.assertEqual((made["value"], made["ceiling"], made["ratio"], made["met"]), (12, 1320, 100, True))

    def test_a_case_without_ceiling(self):
        made = record("s", Case("c", "bytes", GET, goal="value <= 200"), [201, 199, 240], [])
        self.assertEqual((made["value"], made["ceiling"], made["ratio"], made["met"]), (201, None, None, False))

    def test_has_the_fields_that_are_promised(self):
        made = record("s", Case("c", "ns", GET), [1], [])
        promised = "suite case value unit better ceiling ceiling_name ratio goal met"
        self.assertEqual(list(made), promised.split())

    def test_a_round_without_its_ceiling_is_refused(self):
        with self.assertRaises(ValueError):
            record("s", Case("c", "ns", GET, CALL, "n"), [1, 2], [1])


class Rounds(unittest.TestCase):
    def measure(self, cases, worker, setting=None):
        self.said = io.StringIO()
        with redirect_stderr(self.said):
            return measure("s", cases, {"w": worker}, setting or Setting(Path("."), quick=True))

    def test_the_warm_up_does_not_count_and_the_ceiling_follows_its_value(self):
        worker = Scripted(get=[999, 1, 2, 3], call=[999, 10, 20, 30])
        (made,) = self.measure([Case("c", "us", Ask("w", "get", 0.5), CALL, "n")], worker)
        self.assertEqual((made["value"], made["ceiling"]), (1.0, 20))
        self.assertEqual(worker.asked, ["get", "call"] * 4)

    def test_a_case_that_fails_is_told_and_the_others_go_on(self):
        worker = Scripted(get=[1, "no memory"], call=[5, 5, 5, 5])
        made = self.measure([Case("broken", "ns", GET), Case("fine", "ns", CALL)], worker)
        self.assertEqual([one["case"] for one in made], ["fine"])
        self.assertIn("broken: not measured: no memory", self.said.getvalue())
        self.assertEqual(worker.asked.count("get"), 2)

    def test_out_of_time_there_is_one_round_and_a_word_about_it(self):
        worker = Scripted(get=[9, 4])
        late = Setting(Path("."), quick=True, started=-1e9)
        (made,) = self.measure([Case("c", "ns", GET)], worker, late)
        self.assertEqual(made["value"], 4)
        self.assertIn("after 1 of 3 rounds", self.said.getvalue())


class Table(unittest.TestCase):
    def test_figures(self):
        shown = [figure(n) for n in (0.04721, 51.34, 1820.4, 0)]
        self.assertEqual(shown, ["0.0472", "51.3", "1,820", "0"])

    def test_a_missed_goal_is_seen(self):
        case = Case("get", "ns", GET, CALL, "ns of a call", "value <= 60")
        shown = table([record("s", case, [61.0], [40000.0])]).splitlines()[1]
        self.assertEqual(shown.split(), "get 61 ns 40,000 ns of a call 656 x value <= 60 NO".split())


if __name__ == "__main__":
    unittest.main()
