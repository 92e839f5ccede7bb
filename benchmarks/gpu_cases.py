"""How benchmarks/gpu.py times a case, keeps it as a row, and tells it: nothing here knows what is measured."""

import gc
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import torch
from torch import Tensor

PEAK_TFLOPS = 989.0
"""Dense bf16 of an H100 or H200 SXM, as its maker states it: what MFU is a share of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured case; what does not apply is None."""

    part: str
    case: str
    ms: float | None = None
    tflops: float | None = None
    mfu: float | None = None
    """Share of the stated peak, recomputation not counted."""
    hfu: float | None = None
    of_ceiling: float | None = None
    """Share of the matrix product measured on this device."""
    per_s: float | None = None
    """Tokens or frames a second."""
    peak_gb: float | None = None
    planned_gb: float | None = None
    error: str | None = None
    value: float | None = None
    """What a case measures that none of the above is."""


@dataclass(slots=True)
class Bench:
    """The device, the time left, and the rows so far."""

    device: torch.device
    small: bool
    budget_s: float
    rows: list[Row] = field(default_factory=list)
    ceiling_tflops: float | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def gpu(self) -> bool:
        """Whether the device is one of CUDA."""
        return self.device.type == "cuda"

    def case(self, part: str, name: str, work: Callable[[], Row]) -> Row | None:
        """The row that `work` gives, kept and printed; None when it failed, which is printed too."""
        if time.monotonic() - self.began > self.budget_s:
            row = Row(part=part, case=name, error=f"left out: {self.budget_s:.0f} s are over")
        else:
            try:
                row = work()
            except Exception as error:  # out of memory, a kernel that does not take the shape: a finding, not the end
                row = Row(part=part, case=name, error=f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
        self._clean()
        self.rows.append(row)
        print(line(row), flush=True)
        return None if row.error else row

    def random(self, *shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensor:
        """Standard normal values on the device."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(shape, generator=generator, device=self.device, dtype=torch.float32).to(dtype)

    def median_ms(self, work: Callable[[], object], rounds: int = 5, warm: int = 1) -> float:
        """Milliseconds of one call, by the device's events."""
        for _ in range(warm):
            work()
        times = []
        for _ in range(1 if self.small else rounds):
            if self.gpu:
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                start.record()
                work()
                end.record()
                torch.cuda.synchronize()
                times.append(start.elapsed_time(end))
            else:
                start_s = time.perf_counter()
                work()
                times.append(1000 * (time.perf_counter() - start_s))
        return sorted(times)[len(times) // 2]

    def peak_gb(self) -> float | None:
        """Most memory of tensors since the last case, in GB; None on a CPU."""
        return torch.cuda.max_memory_allocated() / 1e9 if self.gpu else None

    def rates(self, ms: float, operations: float, again: float = 0.0) -> dict[str, float | None]:
        """TFLOP/s, MFU, HFU and the share of the measured ceiling; `again` are operations done twice."""
        tflops = operations / ms / 1e9
        share = tflops / self.ceiling_tflops if self.ceiling_tflops else None
        return {"tflops": tflops, "mfu": tflops / PEAK_TFLOPS, "hfu": tflops * (1 + again / operations) / PEAK_TFLOPS, "of_ceiling": share}

    def _clean(self) -> None:
        gc.collect()
        if self.gpu:
            torch.compiler.reset()  # compiled layers of the last case would be compared with those of the next
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def line(row: Row) -> str:
    """The row as a line of the table."""
    figures = (
        ("ms", row.ms, 1.0, "{:.2f}"),
        ("TFLOP/s", row.tflops, 1.0, "{:.1f}"),
        ("MFU %", row.mfu, 100.0, "{:.1f}"),
        ("HFU %", row.hfu, 100.0, "{:.1f}"),
        ("of ceiling %", row.of_ceiling, 100.0, "{:.1f}"),
        ("per s", row.per_s, 1.0, "{:.0f}"),
        ("peak GB", row.peak_gb, 1.0, "{:.2f}"),
        ("planned GB", row.planned_gb, 1.0, "{:.2f}"),
        ("value", row.value, 1.0, "{:.4g}"),
    )
    told = "  ".join(f"{name} {text.format(value * scale)}" for name, value, scale, text in figures if value is not None)
    return f"{row.part:<12} {row.case:<62} {told}{'  FAILED ' + row.error if row.error else ''}"


def as_markdown(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    head = "| part | case | ms | TFLOP/s | MFU | HFU | of ceiling | per s | peak GB | planned GB | value |\n" + "|---" * 11 + "|"
    lines = [head]
    for r in rows:
        shares = ["" if v is None else f"{100 * v:.1f} %" for v in (r.mfu, r.hfu, r.of_ceiling)]
        plain = ["" if v is None else f"{v:,.{k}f}" for v, k in ((r.ms, 2), (r.tflops, 1), (r.per_s, 0), (r.peak_gb, 2), (r.planned_gb, 2))]
        last = r.error or ("" if r.value is None else f"{r.value:.4g}")
        lines.append(f"| {r.part} | {r.case} | {' | '.join([*plain[:2], *shares, *plain[2:], last])} |")
    return "\n".join(lines)


def machine(device: torch.device) -> dict[str, str]:
    """What was measured on and with."""
    gpu = device.type == "cuda"
    driver = ""
    if gpu:
        asked = ["nvidia-smi", "--query-gpu=driver_version,power.limit", "--format=csv,noheader", "--id=0"]
        driver = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name(device) if gpu else platform.processor() or platform.machine(),
        "memory_gb": f"{torch.cuda.get_device_properties(device).total_memory / 1e9:.1f}" if gpu else "",
        "driver": driver,
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda) if gpu else "",
        "cudnn": str(torch.backends.cudnn.version()) if gpu else "",
        "python": platform.python_version(),
    }
