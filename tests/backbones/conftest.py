import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Small networks are quicker without threads that wait for each other, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
