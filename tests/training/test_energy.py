import pytest

from featx.training import energy as module
from featx.training.energy import measure_energy


def write_zone(folder, name, kind, microjoules, most=1_000_000_000):
    zone = folder / name
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "name").write_text(f"{kind}\n")
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    (zone / "max_energy_range_uj").write_text(f"{most}\n")


def test_adds_up_the_packages(tmp_path):
    write_zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    write_zone(tmp_path, "intel-rapl:1", "package-1", 1_000_000)
    write_zone(tmp_path, "intel-rapl:0:0", "core", 0)
    write_zone(tmp_path, "intel-rapl:2", "psys", 0)
    with measure_energy(powercap=tmp_path) as energy:
        write_zone(tmp_path, "intel-rapl:0", "package-0", 7_500_000)
        write_zone(tmp_path, "intel-rapl:1", "package-1", 2_000_000)
        write_zone(tmp_path, "intel-rapl:0:0", "core", 900_000_000)
        write_zone(tmp_path, "intel-rapl:2", "psys", 900_000_000)
    assert energy.joules == pytest.approx(3.5)


def test_counters_turn_over(tmp_path):
    write_zone(tmp_path, "intel-rapl:0", "package-0", 9_000_000, 10_000_000)
    with measure_energy(powercap=tmp_path) as energy:
        write_zone(tmp_path, "intel-rapl:0", "package-0", 2_000_000, 10_000_000)
    assert energy.joules == pytest.approx(3.0)


def test_a_counter_that_may_not_be_read_is_absent(tmp_path):
    write_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    with measure_energy(powercap=tmp_path) as energy:
        pass
    assert energy.joules is None


def test_a_gpu_is_counted_by_nvml(tmp_path, monkeypatch):
    class Nvml:
        NVMLError = RuntimeError
        millijoules = 4000

        def nvmlInit(self):
            pass

        def nvmlDeviceGetHandleByIndex(self, index):
            return index

        def nvmlDeviceGetTotalEnergyConsumption(self, handle):
            assert handle == 1
            return self.millijoules

    nvml = Nvml()
    monkeypatch.setattr(module.importlib, "import_module", lambda name: nvml)
    with measure_energy(1, tmp_path) as energy:
        nvml.millijoules = 6500
    assert energy.joules == pytest.approx(2.5)
