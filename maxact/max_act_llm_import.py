"""Files of arXiv 2605.15572's repository made into runs: one run directory for the files of one model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from .imported import ImportedSites
from .max_act_llm import RANKED, file_name
from .max_act_llm_check import KINDS, check, read
from .run import ROUTERS, Run, check_output, site_kind

LACKS = "positions, channels, texts of tokens, counts of nan and inf, and the tables of magnitudes, samples and ratios"
_MAX_FILES = 10_000


class Found(NamedTuple):
    """What became of one model's files: a run in a directory and notes on it, or `fault`."""

    name: str
    directory: Path | None
    run: Run | None
    notes: list[str]
    fault: str | None


def import_files(paths: Iterable[Path], output: Path, *, overwrite: bool = False) -> Iterator[Found]:
    """Make a run directory in `output` of each model's files, by name; a model with a fault gets none, the rest go on.

    paths: files by their published names, or folders to look through. Raises FileNotFoundError, or ValueError if a
    path leads to no such file.
    """
    for name, files in sorted(_find(paths).items()):
        try:
            check_output(output / name, overwrite)
            run = read_run({kind: _only(found) for kind, found in files.items()}, name)
            run.save(output / name, overwrite=overwrite)
        except (ValueError, OSError) as error:
            yield Found(name, None, None, [], str(error))
        else:
            yield Found(name, output / name, run, _notes(run), None)


def read_run(files: dict[str, Path], name: str) -> Run:
    """The run of one model from its files by kind. Raises OSError, or ValueError with the path and the fault."""
    if "activation_stats" not in files:
        raise ValueError(f"{next(iter(files.values()))}: expected {name}_activation_stats.json beside it")
    documents: dict[str, dict] = {}
    for kind in KINDS:
        if kind in files:
            document = read(files[kind])
            try:
                check(kind, document, documents)
            except ValueError as error:
                raise ValueError(f"{files[kind]}: {error}") from None
            documents[kind] = document
    stats, sites = documents["activation_stats"], ImportedSites(documents)
    provenance = {
        "partial": False,
        "imported": {"format": "max-act-llm", "name": name, "kinds": list(documents), "lacks": LACKS}
        | ({"int8": documents["quant_sanity"]["metrics"]} if "quant_sanity" in documents else {}),
        "model": {"model_id": stats["model_name"], "model_type": stats["model_type"]},
        "corpus": {"name": stats["data_path"].rpartition("/")[2], "max_length": stats["max_seq_len"]},
        "n_samples": stats["num_samples"],
        "n_tokens": sites.n_tokens,
    }
    return Run(sites, provenance)


def load_run(directory: Path, record: dict) -> Run:
    """The run that `Run.save` wrote of an imported one. Raises OSError, or ValueError with the path and the fault."""
    kinds, name = record.get("kinds"), record.get("name")
    if not isinstance(kinds, list) or not all(kind in KINDS for kind in kinds) or not isinstance(name, str):
        raise ValueError(f"{directory / 'run.json'}: imported: expected a name and kinds among {', '.join(KINDS)}")
    return read_run({kind: directory / f"{kind}.json" for kind in kinds}, file_name(name))


def _find(paths: Iterable[Path]) -> dict[str, dict[str, list[Path]]]:
    """{name: {kind: files}} under these paths; directories that are links are not followed."""
    found: dict[str, dict[str, list[Path]]] = {}
    n_files = 0
    for path in paths:
        before = n_files
        for file in _files_of(path):
            for kind in KINDS:
                if file.name.endswith(f"_{kind}.json"):
                    stem = file_name(file.name.removesuffix(f"_{kind}.json"))
                    found.setdefault(stem, {}).setdefault(kind, []).append(file)
                    n_files += 1
        if n_files == before:
            expected = " or ".join(f"_{kind}.json" for kind in KINDS)
            raise ValueError(f"{path}: expected a file, or a folder with files, whose name ends in {expected}")
        if n_files > _MAX_FILES:
            raise ValueError(f"{path}: more than {_MAX_FILES:,} result files; import it in parts")
    return found


def _files_of(path: Path) -> Iterator[Path]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_dir():
        for folder, _, names in os.walk(path):
            yield from (Path(folder, name) for name in sorted(names) if Path(folder, name).is_file())
    elif path.is_file():
        yield path


def _only(files: list[Path]) -> Path:
    different = sorted({file.resolve() for file in files})
    if len(different) > 1:
        raise ValueError(f"{different[0]} and {different[1]} are of one model; import them one at a time")
    return files[0]


def _notes(run: Run) -> list[str]:
    sites, notes = run.sites, []
    peak = abs(sites.documents["activation_stats"]["global_max_activation"])
    if run.M != peak:
        notes.append(
            f"global_max_activation in the file is {peak:g}, over {', '.join(RANKED)}; M here is over all sites but "
            f"routers: {run.M:g}."
        )
    routers = [name for name in sites if site_kind(name) in ROUTERS]
    if routers:
        notes.append(
            f"{len(routers)} router sites: their figures count padding, and may be probabilities; here they are logits."
        )
    if "top5_stats" not in sites.documents:
        notes.append("There is no top5_stats file: of each site the largest value alone is known.")
    else:
        tops = (name for name in sites if len(sites[name].topk.values) > 1)
        differ = [name for name in tops if abs(sites[name].topk.values[0]) != sites[name].absmax]
        if differ:
            notes.append(f"The two files differ in the largest value in {len(differ)} of the sites, first {differ[0]}.")
    return notes
