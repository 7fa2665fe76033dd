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
    rows = [row for row in results("roofline-h100-80gb-hbm3.csv") if (row["d"], row["data"]) == ("4096", "tokens")]
    rows = [row for row in rows if row["dtype"] == "bfloat16" and row["layout"] == "contiguous"]
    measured = {(row["case"], row["what"]): row["gbps"] for row in rows}
    table = re.search(r"\| bfloat16 \[131072, 4096\].*?\n\n", README, re.DOTALL)[0]
    shown = re.findall(r"^\| .+? \| ([\d.]+) \|$", table, re.MULTILINE)
    names = [("ceiling", "read-only kernel"), ("counts=False, medians=False", "fused_probe")]
    names += [("all statistics", what) for what in ("fused_probe", "aminmax", "abs().amax()", "modelopt MaxCalibrator", "eager, all statistics")]
    assert shown == [measured[name] for name in names]


def test_every_figure_of_the_h200_is_in_the_committed_results():
    rows = [row for row in results("roofline-h200.csv") if row["layout"] == "contiguous"]
    probed = [row for row in rows if row["what"] == "fused_probe"]

    def gbps(case: str, dtype: str = "bfloat16", d: int = 4096, data: str = "tokens") -> str:
        (row,) = [row for row in probed if (row["case"], row["dtype"], row["d"], row["data"]) == (case, dtype, str(d), data)]
        return f"{float(row['gbps']):,.0f}"

    everything = "all statistics"
    names = [(everything,), (f"{everything} and int8_per_token",), (everything, "float32")]
    names += [(everything, "bfloat16", 4096, "zeros"), (everything, "bfloat16", 128)]
    shown = re.search(r"`roofline-h200\.csv`\), in GB/s of the ([\d,]+) that it reads: (.*?)\. There .*? takes (.*?)\. It is", README, re.DOTALL)
    assert shown[1] == f"{float(rows[0]['gbps']):,.0f}" and rows[0]["case"] == "ceiling"
    assert re.findall(r"([\d,]+) (?:at|with|in|of)\b", shown[2]) == [gbps(*name) for name in names]
    small = [row for row in probed if row["case"] == f"{everything}, small"]
    device, host = ({f"{float(row[name]):.0f}" for row in small} for name in ("time_us", "host_us"))
    assert (device, host) == ({"20", "21"}, {"7"}) and shown[3] == "20 to 21 µs of\nthe GPU and 7 µs of the host"


def test_every_overhead_in_the_table_is_in_the_committed_results():
    measured = {(row["model"], row["what"]): row for row in results("model-overhead-h100-80gb-hbm3.csv")}
    shown = re.findall(r"^\| (Qwen3-\S+) shape.*?\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) % \|$", README, re.MULTILINE)
    assert len(shown) == 3
    for model, bare, probed, over in shown:
        row = measured[model, "attach, all statistics"]
        assert bare == f"{float(measured[model, 'bare']['time_ms']):.1f}"
        assert (probed, over) == (f"{float(row['time_ms']):.1f}", f"{100 * float(row['over_bare']):.1f}")


def test_every_file_that_the_readme_names_is_there():
    named = re.findall(r"\b(?:csrc|maxact|maxact_kernels|benchmarks|tests)/[\w/.]+\.\w+", README)
    assert len(named) > 5 and all((ROOT / name).is_file() for name in named), named


def test_the_readme_names_every_command_and_no_other():
    import typer

    from maxact.cli import app

    commands = set(typer.main.get_command(app).commands)
    named = set(re.findall(r"(?:`|^|-m |; )maxact ([a-z]+)\b", README, re.MULTILINE))
    assert named == commands
