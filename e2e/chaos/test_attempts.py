"""Attempts hold the same rows, cut as their kind may be cut, until all are acknowledged."""

import threading
from types import SimpleNamespace

import pytest
from attempts import TwiceWriter
from history import History


class Recorder(TwiceWriter):
    """Sends nothing; each attempt gets `stored` rows at most."""

    def __init__(self, has_name):
        target = SimpleNamespace(name="a process")
        super().__init__(4, [target], has_name, History(), threading.Event(), "a seed")
        self.sent, self.stored = [], 0

    def send(self, _target, keys, sequence, cuts):
        self.sent.append((keys.tolist(), sequence, cuts))
        return min(self.stored, len(keys)), 0


@pytest.mark.parametrize("has_name", [True, False])
def test_rows_are_sent_again_under_their_number_until_all_are_acknowledged(has_name):
    writer = Recorder(has_name)
    for _ in range(8):
        writer.work()
    assert len(writer.sent) > 8
    (keys, sequence, _), *_ = writer.sent
    assert all(each[:2] == (keys, sequence) for each in writer.sent)
    for _, _, cuts in writer.sent:
        assert [row for begin, end in cuts for row in keys[begin:end]] == keys
    ways_to_cut = {tuple(cuts) for _, _, cuts in writer.sent}
    assert (len(ways_to_cut) > 1) == has_name
    writer.stored = len(keys)
    writer.finish(10)
    assert writer.keys is None


@pytest.mark.parametrize("has_name", [True, False])
def test_the_next_rows_have_numbers_after_the_last_ones(has_name):
    writer = Recorder(has_name)
    writer.stored = 1000
    for _ in range(5):
        writer.work()
    first = {keys[0]: (keys, sequence, cuts) for keys, sequence, cuts in writer.sent}
    streams = [first[key] for key in sorted(first)]
    assert len(streams) == 5
    for (keys, sequence, cuts), (later_keys, later, _) in zip(streams, streams[1:], strict=False):
        assert later_keys[0] == keys[-1] + 1
        assert later == sequence + (1 if has_name else len(cuts))
