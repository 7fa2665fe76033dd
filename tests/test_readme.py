"""What the README shows is what its commands and the committed results give."""

import contextlib
import csv
import io
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_example_prints_what_stands_below_it():
    code, shown = re.search(r"## One tensor\n\n```python\n(.*?)```\n\n```\n(.*?)```", README, re.DOTALL).groups()
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "README.md", "exec"), {})
    assert out.getvalue() == shown


def test_every_time_in_the_table_is_in_the_committed_results():
    with open(ROOT / "benchmarks" / "results" / "cpu.csv") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if (row["dtype"], row["n_tokens"], row["d"]) == ("bfloat16",) + ("4096",) * 2
        ]
    measured = {row["what"]: float(row["time_us"]) / 1000 for row in rows if row["case"] == "all statistics"}
    table = re.search(r"\| bfloat16 \[4096, 4096\].*?\n\n", README, re.DOTALL)[0]
    shown = {name.strip(): value for name, value in re.findall(r"^\| (.+?) \| ([\d.]+) \|$", table, re.MULTILINE)}
    names = {
        "`fused_probe`, all statistics": "fused_probe, cpu backend",
        "the same by eager PyTorch": "eager, all statistics",
        "`abs().float().sum()` alone": "abs().float().sum()",
        "`aminmax` alone": "aminmax",
    }
    assert shown == {name: f"{measured[what]:.1f}" for name, what in names.items()}


def results(name: str) -> list[dict]:
    with open(ROOT / "benchmarks" / "results" / name) as file:
        return list(csv.DictReader(file))


def test_every_bandwidth_in_the_table_is_in_the_committed_results():
    rows = [row for row in results("roofline-h200.csv") if (row["d"], row["data"]) == ("4096", "tokens")]
    rows = [row for row in rows if row["dtype"] == "bfloat16" and row["layout"] == "contiguous"]
    measured = {(row["case"], row["what"]): row["gbps"] for row in rows}
    table = re.search(r"\| bfloat16 \[131072, 4096\].*?\n\n", README, re.DOTALL)[0]
    shown = re.findall(r"^\| .+? \| ([\d.]+) \|$", table, re.MULTILINE)
    whats = ("fused_probe", "aminmax", "abs().amax()", "modelopt MaxCalibrator", "llm-compressor StaticMinMaxObserver", "eager, all statistics")
    names = [("ceiling", "read-only kernel"), ("counts=False, medians=False", "fused_probe")]
    names += [("all statistics", what) for what in whats]
    assert shown == [measured[name] for name in names]


def test_every_figure_below_the_table_is_in_the_committed_results():
    text = re.search(r"All statistics of other widths, in GB/s: (.*?)`benchmarks/cuda_notes", README, re.DOTALL)[1].replace("\n", " ")
    rows = [row for row in results("roofline-h200.csv") if row["what"] == "fused_probe" and row["layout"] == "contiguous"]
    everything = "all statistics"
    with_int8 = f"{everything} and int8_per_token"
    measured = {(row["case"], row["dtype"], int(row["d"]), row["data"]): float(row["gbps"]) for row in rows}

    def gbps(case: str = everything, dtype: str = "bfloat16", d: int = 4096, data: str = "tokens") -> str:
        return f"{measured[case, dtype, d, data]:,.0f}"

    widths = re.findall(r"([\d,]+) at (\d+)[,.]", text)
    assert len(widths) == 8 and all(shown == gbps(d=int(d)) for shown, d in widths)
    hostile = [value for (case, *_, data), value in measured.items() if case == everything and data != "tokens"]
    shown = re.search(r"At 4,096: ([\d,]+) with.*?, ([\d,]+) in float16, ([\d,]+) in float32, ([\d,]+) to ([\d,]+) of hostile", text)
    names = gbps(with_int8), gbps(dtype="float16"), gbps(dtype="float32"), f"{min(hostile):,.0f}", f"{max(hostile):,.0f}"
    assert shown.groups() == names
    assert re.search(r"at 128 with int8_per_token ([\d,]+),", text)[1] == gbps(with_int8, d=128)
    narrow = re.search(r"at 64 and 128 in float32 ([\d,]+) and ([\d,]+)\.", text).groups()
    assert narrow == (gbps(dtype="float32", d=64), gbps(dtype="float32", d=128))
    small = [row for row in results("roofline-h200.csv") if row["case"] == f"{everything}, small"]

    def span(what: str, name: str) -> str:
        times = [round(float(row[name])) for row in small if row["what"] == what]
        return " to ".join(str(time) for time in sorted({min(times), max(times)}))

    shown = re.search(r"takes (\d[\d to]*) µs of the GPU and (\d[\d to]*) µs of the host, .*? takes (\d[\d to]*)\. ", text)
    assert shown.groups() == (span("fused_probe", "time_us"), span("fused_probe", "host_us"), span("read-only kernel", "host_us"))
    h100 = [row for row in results("roofline-h100-80gb-hbm3.csv") if row["what"] == "fused_probe" and row["d"] == "4096"]
    of = {(row["case"], row["dtype"], row["data"], row["layout"]): float(row["share_of_ceiling"]) for row in h100}
    plain = [of[case, "bfloat16", "tokens", "contiguous"] for case in (everything, "counts=False, medians=False")]
    assert re.search(r"read (\d+) % of .*? and (\d+) % without", text).groups() == tuple(f"{100 * share:.0f}" for share in plain)


def test_every_overhead_in_the_table_is_in_the_committed_results():
    measured = {(row["model"], row["what"]): row for row in results("model-overhead-h200.csv")}
    shown = re.findall(r"^\| (Qwen3-\S+) shape.*?\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) % \|$", README, re.MULTILINE)
    assert len(shown) == 3
    for model, bare, probed, over in shown:
        row = measured[model, "attach, all statistics"]
        assert bare == f"{float(measured[model, 'bare']['time_ms']):.1f}"
        assert (probed, over) == (f"{float(row['time_ms']):.1f}", f"{100 * float(row['over_bare']):.1f}")
    eager = [f"{float(measured[model, 'eager hooks, the same']['over_bare']):.1f}" for model, *_ in shown]
    assert list(re.search(r"PyTorch take ([\d.]+), ([\d.]+) and ([\d.]+) times the bare pass more", README).groups()) == eager
    experts = 100 * float(measured["Qwen3-30B-A3B", "attach, experts too"]["over_bare"])
    assert re.search(r"all experts of Qwen3-30B-A3B it is ([\d.]+) %", README)[1] == f"{experts:.1f}"


def test_every_file_that_the_readme_names_is_there():
    named = re.findall(r"\b(?:csrc|maxact|maxact_kernels|benchmarks|tests)/[\w/.]+\.\w+", README)
    assert len(named) > 5 and all((ROOT / name).is_file() for name in named), named


def test_the_readme_names_every_command_and_no_other():
    import typer

    from maxact.cli import app

    commands = set(typer.main.get_command(app).commands)
    named = set(re.findall(r"(?:`|^|-m |; )maxact ([a-z]+)\b", README, re.MULTILINE))
    assert named == commands
