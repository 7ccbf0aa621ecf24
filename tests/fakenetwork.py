"""What the streams need of a network beside its rows, for fake networks that load no torch."""

from contextlib import contextmanager


class Engine:
    """Batches of one size; what it is told stays to be read."""

    def __init__(self, batch_size=16):
        self.batch_size, self.streams = batch_size, 1
        self.told, self.finished = [], 0

    @property
    def remaining(self):
        return self.told[-1] if self.told else 0

    @remaining.setter
    def remaining(self, count):
        self.told.append(count)

    def use_batch_size(self, size):
        self.batch_size = size

    def cancel(self):
        pass

    def finish(self):
        self.finished += 1


class OnCores:
    """A network that computes on the cores that decode; to be given ``engine`` and ``embed``."""

    device, precision, notes = "cpu", "fp32", ()

    def check_precision(self, pixels, may_change=True):
        return None

    def use_one_core(self):
        pass

    @contextmanager
    def on_streams(self, count):
        self.engine.streams = count
        try:
            yield
        finally:
            self.engine.finish()
