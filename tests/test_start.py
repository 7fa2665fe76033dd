"""Commands on run directories start fast: none of them imports PyTorch, transformers or what these bring."""

import json
import subprocess
import sys

import pytest
from small_runs import noise, run_of, with_peak

HEAVY = ("torch", "transformers", "pandas", "pyarrow", "scipy", "matplotlib", "triton")
COMMANDS = {
    "show": ["show", "RUN"],
    "compare": ["compare", "RUN", "RUN"],
    "report": ["report", "RUN", "-o", "OUT/report.html"],
    "stability": ["stability", "RUN"],
    "check": ["check", "RUN", "--limit", "fp16", "--sqnr", "1"],
    "card": ["card", "RUN", "OUT/README.md", "--model-index"],
    **{
        f"export {form}": ["export", "RUN", "--format", form, "-o", "OUT"]
        for form in ("smoothquant", "input-scales", "channel-absmax", "csv")
    },
    "export keep": ["export", "RUN", "--format", "keep", "--limit", "fp16", "-o", "OUT"],
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "r"
    modules = {"layer_0_mlp_act": {"end": "input", "paths": ["m.0"]}}
    run_of({"layer_0_hidden": noise(), "layer_0_mlp_act": with_peak(9.0)}, modules=modules).save(path)
    return path


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_command_imports_nothing_heavy(command, directory, tmp_path):
    arguments = [word.replace("RUN", str(directory)).replace("OUT", str(tmp_path)) for word in command]
    code = (
        f"import json, sys; sys.argv = ['maxact', *{arguments!r}]\n"
        "from maxact.cli import main\n"
        "try: main()\nexcept SystemExit as end: code = end.code\n"
        "print('\\n' + json.dumps([code or 0, sorted({name.split('.')[0] for name in sys.modules})]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    exit_code, modules = json.loads(done.stdout.splitlines()[-1])
    assert exit_code == 0, done.stderr
    assert "maxact" in modules and not set(HEAVY) & set(modules)
